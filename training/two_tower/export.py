"""Export the trained two-tower into its work folder: its part of a bundle, and the weights for the next night.

`user_tower.onnx` and `user_tower_kernel.safetensors`, `item_vectors.safetensors`, `item_to_item.safetensors`,
`popular.safetensors`, `golden.safetensors` and `summary.json`; `recsys.bundle.FILES` says what each holds.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recsys.contracts.errors import InvalidBundle
from recsys.models.attributes import PROFILE_SLOTS
from recsys.models.encoding import N_GAPS, N_TYPES, EncodedHistory, encode_arrays
from recsys.models.two_tower import ServedUserTower, TwoTower
from recsys.native import core
from recsys.recall.compiled_tower import KERNEL
from recsys.recall.item_vectors import ItemVectors, LinearPart
from recsys.recall.two_tower import GAPS, HISTORY, ITEMS, OUTPUT, PROFILE, TYPES, UserTower
from recsys.result import to_json
from training.two_tower.cooccurrence import filled_up, interactions, item_neighbours, popularity
from training.two_tower.kernel import is_compilable, write_tower_kernel
from training.two_tower.result import TwoTowerResult
from training.two_tower.sequences import History, Profiles, SequenceFiles
from training.two_tower.warm_start import SUMMARY, save_weights

USER_TOWER = "user_tower.onnx"
TOLERANCE = 1e-4  # of the exported tower against torch's
GOLDEN_CASES = 8
NEIGHBOURS, LENGTH = 50, 50  # of an item; of a golden history

TowerInputs = dict[str, NDArray[np.int64]]


def main(
    result: TwoTowerResult,
    work: Path,
    neighbours: int = NEIGHBOURS,
    half_life_days: float = 14.0,
    served_length: int = LENGTH,
) -> Path:
    """Export a trained two-tower; gives the work folder.

    Args:
        neighbours: m of `item_to_item.safetensors`.
        half_life_days: age at which an event counts half in `popular.safetensors`.
        served_length: length of the golden histories (any length can be served).

    Raises:
        InvalidBundle: the exported tower does not compute what torch computes.
    """
    histories = list(SequenceFiles(result.config.sequences, result.items).read())
    profiles = result.profiles if result.config.shape.profile else None
    golden = golden_inputs(histories, served_length, profiles)
    seen = interactions(histories, len(result.items))
    similar = filled_up(*item_neighbours(seen, neighbours), item_vectors(result.model).vectors)
    popular = popularity(histories, len(result.items), half_life_days)
    write_towers(result.model, work, golden, similar, popular, result.linear)
    summary = {
        "config": result.config.model_dump(mode="json"),
        "metrics": result.validation,
        "seed": result.config.seed,
        "repeats": result.repeats.days,
        "curve": [{"epoch": e.epoch, "loss": e.loss, "validation": e.validation} for e in result.epochs],
    }
    (work / SUMMARY).write_text(to_json(summary, indent=2), encoding="utf-8")
    save_weights(result.model, result.config, result.items, result.newest_ms, work)
    return work


def write_towers(
    model: TwoTower,
    work: Path,
    golden: TowerInputs,
    similar: tuple[NDArray[np.int32], NDArray[np.float32]],
    popular: NDArray[np.float64],
    linear: LinearPart | None = None,
) -> None:
    """Write a bundle's part of recall, but for the summary.

    Args:
        golden: inputs, as of `golden_inputs`.
        similar: neighbours (n_items, m) and their scores.
        popular: (n_items,) how popular each item is.

    Raises:
        InvalidBundle: the exported tower does not compute what torch computes.
    """
    work.mkdir(parents=True, exist_ok=True)
    # of another training; and without a summary an interrupted one is not published as that
    for of_another in (KERNEL, SUMMARY):
        (work / of_another).unlink(missing_ok=True)
    tower = ServedUserTower(model).eval()
    export_user_tower(tower, work / USER_TOWER)
    vectors = item_vectors(model, linear)
    expected = check_user_tower(model, work / USER_TOWER, vectors.vectors, golden)
    if linear is not None:
        expected = np.concatenate((expected, linear.of(golden[HISTORY])), axis=1)
    arrays = {f"user_tower/in/{name}": array for name, array in golden.items()}
    save_file(arrays | {f"user_tower/out/{OUTPUT}": expected}, work / "golden.safetensors")
    if core is not None and is_compilable(tower):
        write_tower_kernel(tower, work, vectors.vectors)
    save_file(vectors.arrays(), work / "item_vectors.safetensors")
    save_file(dict(zip(("neighbours", "scores"), similar, strict=True)), work / "item_to_item.safetensors")
    if not popular.any():  # all are equally popular, so that a new user gets a list
        popular = np.ones_like(popular)
    order = np.argsort(-popular, kind="stable").astype(np.int32)
    save_file({"rows": order, "scores": popular[order].astype(np.float32)}, work / "popular.safetensors")


def nearest_items(
    vectors: NDArray[np.float32], neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Similar items by their vectors alone, as `filled_up` has them."""
    none = np.full((len(vectors), neighbours), -1, np.int32)
    return filled_up(none, np.zeros(none.shape, np.float32), vectors)


def item_vectors(model: TwoTower, linear: LinearPart | None = None) -> ItemVectors:
    """Of every item, and of the attributes of items that are added later."""
    tower = model.items
    with torch.inference_mode():
        vectors, words = tower.all_vectors()[1:].numpy(), tower.words.weight.numpy()
    return ItemVectors(
        np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(words, np.float32), linear
    )


def golden_inputs(histories: list[History], length: int, profiles: Profiles | None) -> TowerInputs:
    """An empty history and a few real ones: arrays (cases, length), and `profile` (cases, PROFILE_SLOTS)."""
    unknown = History("", *(np.zeros(0, np.int64) for _ in range(3)))
    some = histories[: GOLDEN_CASES - 1]
    encoded = [
        encode_arrays(h.numbers, h.types, h.times, int(h.times[-1]) + 60_000 if len(h.times) else 0, length)
        for h in (unknown, *some)
    ]
    arrays = dict(
        zip(EncodedHistory._fields, (np.stack(column) for column in zip(*encoded, strict=True)), strict=True)
    )
    if profiles is not None:
        known = histories[-1] if histories else unknown
        arrays[PROFILE] = profiles.of([known, *some])  # the empty history has a known user's attributes
    return arrays


def invented_inputs(n_items: int, rng: np.random.Generator, length: int = LENGTH) -> TowerInputs:
    """Golden inputs without anybody's history: an empty one and random ones of several lengths, (cases, length)."""
    sizes = np.linspace(0, length, GOLDEN_CASES).astype(np.int64)
    real = np.arange(length) >= length - sizes[:, None]
    highest = {HISTORY: n_items + 1, TYPES: N_TYPES, GAPS: N_GAPS}
    return {name: rng.integers(1, end, real.shape) * real for name, end in highest.items()}


def export_user_tower(tower: ServedUserTower, path: Path) -> None:
    """ONNX with dynamic batch and length."""
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    names = [ITEMS, TYPES, GAPS]
    # a tensor each: the exporter takes one that is given twice for one input
    numbers = [torch.ones(2, 3, dtype=torch.int64) for _ in (TYPES, GAPS)]
    example = [torch.ones(2, 3, len(tower.padding)), *numbers]
    dynamic: list[dict[int, torch.export.Dim]] = [{0: batch, 1: length} for _ in names]
    if tower.takes_profile:
        names.append(PROFILE)
        example.append(torch.ones(2, PROFILE_SLOTS, dtype=torch.int64))
        dynamic.append({0: batch})
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they warn of packages and folds that we do not use
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            tuple(example),
            path,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=tuple(dynamic),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def check_user_tower(
    model: TwoTower, path: Path, items: NDArray[np.float32], inputs: TowerInputs
) -> NDArray[np.float32]:
    """The exported tower's output for `inputs`, (cases, d), as served with `items` (n_items, d), compared with the
    trained model on all cases at once and on single cases cut to other lengths.

    Raises:
        InvalidBundle: an output differs by more than `TOLERANCE`.
    """
    served = UserTower(path, items)

    def newest(case: int, n: int) -> TowerInputs:
        """One case with its newest n events."""
        one = {name: array[case : case + 1] for name, array in inputs.items()}
        return one | {name: one[name][:, -n:] for name in EncodedHistory._fields}

    cases, width = inputs["history"].shape
    for part in (inputs, *(newest(i % cases, n) for i, n in enumerate((width, 1, 2, 7)))):
        with torch.inference_mode():
            arrays = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in part.items()}
            ours = model(**arrays)[:, -1].numpy()
        theirs = served.vectors(**part)
        difference = float(np.abs(ours - theirs).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
            shape = part["history"].shape
            raise InvalidBundle(f"{path}: differs from torch by {difference:.2g} on shape {shape}")
    return served.vectors(**inputs)
