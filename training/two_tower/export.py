"""What the bundle gets from the two-tower's training, written into its work folder.

`user_tower.onnx`, `item_vectors.safetensors`, `item_to_item.safetensors`, `popular.safetensors`, `golden.safetensors`,
`summary.json`; `recsys.bundle.FILES` says what each holds. `training.publish` makes a bundle of them. Beside them the
weights, from which another night's training goes on.
"""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recsys.contracts.errors import InvalidBundle
from recsys.models.attributes import PROFILE_SLOTS
from recsys.models.encoding import encode_arrays
from recsys.models.two_tower import ServedUserTower
from training.two_tower.cooccurrence import filled_up, interactions, item_neighbours, popularity
from training.two_tower.sequences import History, Profiles, SequenceFiles
from training.two_tower.train import TwoTowerResult
from training.two_tower.warm_start import keep

INPUTS = ("history", "types", "gaps")
PROFILE = "profile"  # with a shape that has one
OUTPUT = "user_vector"
TOLERANCE = 1e-4  # of the exported tower against torch's
GOLDEN_CASES = 8


def main(
    result: TwoTowerResult,
    work: Path,
    neighbours: int = 50,
    half_life_days: float = 14.0,
    served_length: int = 50,
) -> Path:
    """Export a trained two-tower; gives the work folder.

    Args:
        neighbours: m of `item_to_item.safetensors`.
        half_life_days: after which an event counts half in `popular.safetensors`.
        served_length: length of the golden histories (any length can be served).

    Raises:
        InvalidBundle: the exported tower does not compute what torch computes.
    """
    work.mkdir(parents=True, exist_ok=True)
    histories = list(SequenceFiles(result.config.sequences, result.items).read())
    n_items = len(result.items)
    tower = ServedUserTower(result.model).eval()
    golden = golden_inputs(histories, served_length)
    if tower.takes_profile:
        golden = (*golden, golden_profiles(histories, result.profiles))
    export_user_tower(tower, work / "user_tower.onnx")
    expected = check_user_tower(tower, work / "user_tower.onnx", golden)

    vectors = item_vectors(result)
    similar, scores = filled_up(
        *item_neighbours(interactions(histories, n_items), neighbours), vectors["vectors"]
    )
    popular = popularity(histories, n_items, half_life_days)
    order = np.argsort(-popular, kind="stable")
    save_file(vectors, work / "item_vectors.safetensors")
    save_file({"neighbours": similar, "scores": scores}, work / "item_to_item.safetensors")
    save_file(
        {"rows": order.astype(np.int32), "scores": popular[order].astype(np.float32)},
        work / "popular.safetensors",
    )
    save_file(
        {f"user_tower/in/{name}": array for name, array in zip(_inputs(tower), golden, strict=True)}
        | {f"user_tower/out/{OUTPUT}": expected},
        work / "golden.safetensors",
    )
    summary = {
        "config": result.config.model_dump(mode="json"),
        "metrics": result.validation,
        "seed": result.config.seed,
        "curve": [{"epoch": e.epoch, "loss": e.loss, "validation": e.validation} for e in result.epochs],
    }
    (work / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    keep(result.model, result.config, result.items, result.newest_ms, work)
    return work


def item_vectors(result: TwoTowerResult) -> dict[str, NDArray[np.float32]]:
    """`vectors` (n_items, d), row i of item i; `attributes` (1 + buckets, d), for items that come later."""
    tower = result.model.items
    with torch.inference_mode():
        vectors, words = tower.all_vectors()[1:].numpy(), tower.words.weight.numpy()
    return {
        "vectors": np.ascontiguousarray(vectors, np.float32),
        "attributes": np.ascontiguousarray(words, np.float32),
    }


def golden_inputs(histories: list[History], length: int) -> tuple[NDArray[np.int64], ...]:
    """An empty history and a few real ones: three arrays (cases, length) int64."""
    nobody = History("", *(np.zeros(0, np.int64) for _ in range(3)))
    cases = [nobody, *histories[: GOLDEN_CASES - 1]]
    encoded = [
        encode_arrays(h.numbers, h.types, h.times, int(h.times[-1]) + 60_000 if len(h.times) else 0, length)
        for h in cases
    ]
    return tuple(np.stack(arrays) for arrays in zip(*encoded, strict=True))


def golden_profiles(histories: list[History], profiles: Profiles) -> NDArray[np.int64]:
    """(cases, PROFILE_SLOTS) int64: the users of `golden_inputs`, with somebody known as the empty history."""
    return profiles.of([histories[-1], *histories[: GOLDEN_CASES - 1]])


def _inputs(tower: ServedUserTower) -> tuple[str, ...]:
    return (*INPUTS, PROFILE) if tower.takes_profile else INPUTS


def export_user_tower(tower: ServedUserTower, path: Path) -> None:
    """ONNX with dynamic batch and length."""
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    example = tuple(torch.ones(2, 3, dtype=torch.int64) for _ in INPUTS)
    dynamic: tuple[dict[int, torch.export.Dim], ...] = tuple({0: batch, 1: length} for _ in INPUTS)
    if tower.takes_profile:
        example = (*example, torch.ones(2, PROFILE_SLOTS, dtype=torch.int64))
        dynamic = (*dynamic, {0: batch})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that we do not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            example,
            path,
            input_names=list(_inputs(tower)),
            output_names=[OUTPUT],
            dynamic_shapes=dynamic,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def check_user_tower(
    tower: ServedUserTower, path: Path, inputs: tuple[NDArray[np.int64], ...]
) -> NDArray[np.float32]:
    """What the exported tower gives for `inputs` (cases, d), after comparing it with torch: together, one by one
    and cut to other lengths.

    Raises:
        InvalidBundle: an output differs by more than `TOLERANCE`.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names, width = _inputs(tower), inputs[0].shape[1]

    def cut(case: int, n: int) -> tuple[NDArray[np.int64], ...]:
        """One case with its newest n events."""
        events = tuple(a[case : case + 1, width - n :] for a in inputs[: len(INPUTS)])
        return (*events, *(a[case : case + 1] for a in inputs[len(INPUTS) :]))

    for part in (inputs, *(cut(case, n) for case, n in enumerate((width, 1, 2, 7)))):
        with torch.inference_mode():
            ours = tower(*(torch.from_numpy(np.ascontiguousarray(a)) for a in part)).numpy()
        theirs = session.run([OUTPUT], dict(zip(names, part, strict=True)))[0]
        difference = float(np.abs(ours - theirs).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
            raise InvalidBundle(f"{path}: differs from torch by {difference:.2g} on shape {part[0].shape}")
    return np.asarray(session.run([OUTPUT], dict(zip(names, inputs, strict=True)))[0], np.float32)
