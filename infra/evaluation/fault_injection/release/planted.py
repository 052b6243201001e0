"""Bad bundles: well-formed, with right checksums and golden outputs, so that nothing but a release can stop them."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

from recsys.bundle import MANIFEST, SIGNATURE, Bundle, open_bundle, write_bundle
from recsys.contracts.types import Head
from recsys.models.golden import golden_part
from recsys.ranking.calibration import Platt, write_calibrations
from recsys.ranking.scorer import RankerSession
from recsys.recall.ann import AnnIndex
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.two_tower import OUTPUT, UserTower

INVERTED, POPULAR, SLOW, NEW_ITEMS_NAN, WRONG_CALIBRATION = (
    "inverted-scores",
    "popularity-collapse",
    "three-times-slower",
    "nan-for-new-items",
    "wrong-calibration",
)
_RAW = "{}_of_the_candidate"
_HEADS = (Head.CLICK, Head.CONVERSION, Head.LIKE)
# of the unchanged models
_KERNELS = ("edge.onnx", "ranker_kernel.safetensors", "user_tower_kernel.safetensors")
_OFFSET = 1.5  # log odds


def plant(bundles: Path, candidate: Bundle) -> dict[str, Bundle]:
    """Write a bundle for each kind of harm that a change of the candidate's files makes."""
    changes: Mapping[str, Callable[[Path], None]] = {
        INVERTED: _invert,
        POPULAR: _collapse,
        SLOW: lambda folder: None,  # its requests take three times as long: `lists`
        NEW_ITEMS_NAN: _nan_for_new_items,
        WRONG_CALIBRATION: _calibrate_wrongly,
    }
    return {name: _planted(bundles, candidate, name, change) for name, change in changes.items()}


def _planted(bundles: Path, candidate: Bundle, version: str, change: Callable[[Path], None]) -> Bundle:
    with write_bundle(bundles, replace(candidate.manifest, version=version, files={})) as folder:
        for path in candidate.path.iterdir():
            if path.name not in (MANIFEST, SIGNATURE, *_KERNELS):
                shutil.copyfile(path, folder / path.name)
        change(folder)
        _write_golden(folder)
    return open_bundle(bundles / version)


def _write_golden(folder: Path) -> None:
    golden = load_file(folder / "golden.safetensors")
    numbers = golden["ranker/in/items"]
    golden["ranker/in/items"] = np.where(numbers > 0, numbers, 1)  # or NaN would be found when it is loaded
    items = ItemVectors.of(load_file(folder / "item_vectors.safetensors"))
    tower = UserTower(folder / "user_tower.onnx", items.vectors, linear=items.linear)
    ranker = RankerSession(folder / "ranker.onnx")
    outputs = ranker.run(golden_part(golden, "ranker/in/"))
    golden |= {f"ranker/out/{head}": scores for head, scores in outputs.items()}
    golden[f"user_tower/out/{OUTPUT}"] = tower.vectors(**golden_part(golden, "user_tower/in/"))
    save_file(golden, folder / "golden.safetensors")


def _invert(folder: Path) -> None:
    def node(head: Head, raw: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Sub", ["planted_one", raw], [str(head)])]

    _change_outputs(folder, _HEADS, node, {"planted_one": np.array(1, np.float32)})


def _nan_for_new_items(folder: Path) -> None:
    def node(head: Head, raw: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Where", ["planted_is_new", "planted_nan", raw], [str(head)])]

    first = [helper.make_node("Equal", ["items", "planted_unknown"], ["planted_is_new"])]
    _change_outputs(
        folder,
        _HEADS,
        node,
        {"planted_unknown": np.array(0, np.int64), "planted_nan": np.array(np.nan, np.float32)},
        first,
    )


def _collapse(folder: Path) -> None:
    """Recall and ranking order by popularity, the same for all users."""
    items = ItemVectors.of(load_file(folder / "item_vectors.safetensors"))
    popular = load_file(folder / "popular.safetensors")
    share = np.zeros(len(items), np.float32)
    share[popular["rows"]] = np.linspace(1, 0, len(popular["rows"]), dtype=np.float32)
    direction = items.vectors.mean(axis=0) / np.linalg.norm(items.vectors.mean(axis=0))
    collapsed = ItemVectors((share[:, None] * direction).astype(np.float32), items.attributes)
    save_file(collapsed.arrays(), folder / "item_vectors.safetensors")
    AnnIndex.build(collapsed.vectors).save(folder / "index.faiss")

    def node(head: Head, raw: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Gather", ["planted_by_popularity", "items"], [str(head)])]

    table = 0.3 * np.append(np.float32(0), share)
    _change_outputs(folder, _HEADS, node, {"planted_by_popularity": table.astype(np.float32)})


def _calibrate_wrongly(folder: Path) -> None:
    write_calibrations(folder / "calibration.json", {head: Platt(1.0, _OFFSET) for head in _HEADS})


def _change_outputs(
    folder: Path,
    heads: tuple[Head, ...],
    nodes: Callable[[Head, str], list[onnx.NodeProto]],
    constants: Mapping[str, np.ndarray],
    first: list[onnx.NodeProto] | None = None,
) -> None:
    """Put nodes between the ranker's outputs and what computed them."""
    path = folder / "ranker.onnx"
    model = onnx.load(path)
    renamed = {str(head): _RAW.format(head) for head in heads}
    for each in model.graph.node:
        for names in (each.input, each.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    model.graph.node.extend(first or [])
    for head in heads:
        model.graph.node.extend(nodes(head, renamed[str(head)]))
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
