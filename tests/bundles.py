"""A tiny, valid bundle: real ONNX models, index and tables of a few items, made in milliseconds without torch.

    bundle = write_tiny_bundle(tmp_path / "bundles", version="v1")

The models are small formulas with random weights: the user's vector is the sum of the vectors of the history's
items, so the nearest items are those like it; the heads add up features, an item bias and user · item.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from recsys.bundle import Bundle, Manifest, open_bundle, publish, write_bundle
from recsys.contracts.types import Head, Item
from recsys.features.definitions import FEATURES
from recsys.features.drift import histograms, write_histograms
from recsys.features.feature_set import FeatureSet
from recsys.items.item_table import items_table
from recsys.models.attributes import PROFILE_SLOTS
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.item_vectors import ItemVectors, LinearPart, gathered

DIMENSION = 8
NEIGHBOURS = 10
_LENGTH = 50  # of the golden histories
_INT, _FLOAT = TensorProto.INT64, TensorProto.FLOAT

_Arrays = Mapping[str, NDArray[np.generic]]
_Signature = Mapping[str, tuple[int, Sequence[str | int]]]  # name → ONNX type and shape


def tiny_items(n: int = 40, categories: int = 4, creators: int = 7) -> list[Item]:
    """Sorted by id, as every item table; item i was created on day i + 1."""
    return [
        Item(
            f"item-{i:03d}",
            f"Item {i}",
            (f"category-{i % categories}",),
            f"creator-{i % creators}",
            (i + 1) * 86_400_000,
        )
        for i in range(n)
    ]


def tiny_vectors(n: int, seed: int = 0, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """(n, d) float32 of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((n, dimension), np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def tiny_linear(n: int, seed: int = 0, rank: int = 3) -> LinearPart:
    history, candidates = np.random.default_rng(seed).standard_normal((2, n, rank), np.float32)
    return LinearPart(history, candidates)


def write_tiny_bundle(
    bundles: Path,
    version: str = "tiny",
    items: Sequence[Item] | None = None,
    features: FeatureSet = FEATURES,
    seed: int = 0,
    current: bool = True,
    attributes: NDArray[np.float32] | None = None,
    profile: bool = False,
    gathers: bool = True,
    linear: LinearPart | None = None,
    index: IndexConfig = IndexConfig(),  # noqa: B008 - it never changes
    repeats: Mapping[str, float] | None = None,
    finish: Callable[[Path], None] = lambda folder: None,
    created_ms: int = 1_750_000_000_000,
) -> Bundle:
    """Write and verify a bundle; `current`: publish it too. `attributes`: (1 + buckets, d), for items to come.
    `profile`: its tower reads the users' attributes. `gathers`: as in `user_tower`. `linear`: of its items.
    `index`: another kind than exact needs a thousand items. `finish`: replaces files before they are listed."""
    items = tiny_items() if items is None else items
    vectors = tiny_vectors(len(items), seed)
    all_vectors = ItemVectors(vectors, attributes, linear)
    manifest = Manifest(
        version=version,
        created_ms=created_ms,
        feature_fingerprint=features.fingerprint,
        feature_names=features.names,
        data_window_ms=(1_740_000_000_000, 1_750_000_000_000),
        seed=seed,
        metrics={},
        models={"two_tower": {"dimension": DIMENSION}, "ranker": {}},
        repeats=repeats or {},
    )
    tower, ranker = user_tower(vectors, profile, gathers), ranker_model(vectors, features.dimension, seed)
    with write_bundle(bundles, manifest) as folder:
        pq.write_table(items_table(items), folder / "items.parquet")
        (folder / "user_tower.onnx").write_bytes(tower)
        (folder / "ranker.onnx").write_bytes(ranker)
        save_file(all_vectors.arrays(), folder / "item_vectors.safetensors")
        AnnIndex.build(all_vectors.indexed, index).save(folder / "index.faiss")
        save_file(_item_to_item(vectors), folder / "item_to_item.safetensors")
        save_file(_popular(len(items), seed), folder / "popular.safetensors")
        zeros = np.zeros((100, features.dimension), np.float32)
        write_histograms(folder / "feature_histograms.json", histograms(zeros))
        golden = _golden(tower, ranker, all_vectors, features.dimension, seed)
        save_file(golden, folder / "golden.safetensors")
        finish(folder)
    return publish(bundles, version) if current else open_bundle(bundles / version)


def user_tower(vectors: NDArray[np.float32], profile: bool = False, gathers: bool = True) -> bytes:
    """ONNX: user_vector = Σ of the history's item vectors + a trace of types and gaps, and of the profile.
    `gathers`: it takes item vectors; otherwise item numbers, as towers did before."""
    table = np.vstack([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    nodes = [
        *([] if gathers else [helper.make_node("Gather", ["table", "history"], ["items"])]),
        helper.make_node("ReduceSum", ["items", "axis_1"], ["sum"], keepdims=0),
        helper.make_node("Add", ["types", "gaps"], ["other"]),
        helper.make_node("Cast", ["other"], ["other_float"], to=_FLOAT),
        helper.make_node("ReduceSum", ["other_float", "axis_1"], ["other_sum"], keepdims=1),
        helper.make_node("Mul", ["other_sum", "trace"], ["other_trace"]),
        helper.make_node("Add", ["sum", "other_trace"], ["user_vector"]),
    ]
    constants = {
        **({} if gathers else {"table": table}),
        "axis_1": np.array([1], np.int64),
        "trace": np.array(1e-6, np.float32),
    }
    inputs: dict[str, tuple[int, Sequence[str | int]]] = {
        "items": (_FLOAT, ["B", "L", vectors.shape[1]]),
        **{name: (_INT, ["B", "L"]) for name in ("history", "types", "gaps")},
    }
    del inputs["history" if gathers else "items"]
    if profile:
        nodes[-1].output[0] = "of_history"
        nodes += [
            helper.make_node("Cast", ["profile"], ["profile_float"], to=_FLOAT),
            helper.make_node("MatMul", ["profile_float", "taste"], ["of_profile"]),
            helper.make_node("Add", ["of_history", "of_profile"], ["user_vector"]),
        ]
        constants["taste"] = 1e-2 * tiny_vectors(PROFILE_SLOTS, dimension=vectors.shape[1])
        inputs["profile"] = (_INT, ["B", PROFILE_SLOTS])
    return _model(nodes, constants, inputs, {"user_vector": (_FLOAT, ["B", vectors.shape[1]])})


def ranker_model(vectors: NDArray[np.float32], n_features: int, seed: int = 0) -> bytes:
    """ONNX: every head is a sigmoid (dwell: softplus) of features, item bias, user · item and position."""
    n, d = vectors.shape
    random = np.random.default_rng(seed + 1)
    heads = len(Head)
    constants = {
        "table": np.vstack([np.zeros((1, d), np.float32), vectors]),
        "bias": random.normal(0, 0.3, (n + 1, heads)).astype(np.float32),
        "weights": random.normal(0, 0.05, (n_features, heads)).astype(np.float32),
        "axis_1": np.array([1], np.int64),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "per_position": np.array(-0.01, np.float32),
        "trace": np.array(1e-6, np.float32),
    }
    nodes = [
        # features count by the logarithm of their size; NaN reads as 0
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("Abs", ["filled"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["inputs"]),
        helper.make_node("MatMul", ["inputs", "weights"], ["from_features"]),
        helper.make_node("Gather", ["bias", "items"], ["from_item"]),
        helper.make_node("Gather", ["table", "history"], ["events"]),
        helper.make_node("ReduceSum", ["events", "axis_1"], ["user"], keepdims=0),
        helper.make_node("Gather", ["table", "items"], ["item"]),
        helper.make_node("Mul", ["item", "user"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis_1"], ["affinity"], keepdims=1),
        helper.make_node("Cast", ["position"], ["position_float"], to=_FLOAT),
        helper.make_node("Mul", ["position_float", "per_position"], ["from_position"]),
        helper.make_node("Unsqueeze", ["from_position", "axis_1"], ["from_position_2d"]),
        helper.make_node("Add", ["types", "gaps"], ["other"]),
        helper.make_node("Cast", ["other"], ["other_float"], to=_FLOAT),
        helper.make_node("ReduceSum", ["other_float", "axis_1"], ["other_sum"], keepdims=1),
        helper.make_node("Mul", ["other_sum", "trace"], ["from_other"]),
        helper.make_node(
            "Sum", ["from_features", "from_item", "affinity", "from_position_2d", "from_other"], ["logits"]
        ),
        helper.make_node("Split", ["logits"], [f"{head}_2d" for head in Head], axis=1, num_outputs=heads),
    ]
    for head in Head:
        nodes.append(helper.make_node("Squeeze", [f"{head}_2d", "axis_1"], [f"{head}_logit"]))
        kind = "Softplus" if head is Head.DWELL else "Sigmoid"
        nodes.append(helper.make_node(kind, [f"{head}_logit"], [str(head)]))
    inputs: _Signature = {
        **{name: (_INT, [1, "L"]) for name in ("history", "types", "gaps")},
        "items": (_INT, ["N"]),
        "features": (_FLOAT, ["N", n_features]),
        "position": (_INT, ["N"]),
    }
    return _model(nodes, constants, inputs, {str(head): (_FLOAT, ["N"]) for head in Head})


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: _Arrays,
    inputs: _Signature,
    outputs: _Signature,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _item_to_item(vectors: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    if len(vectors) > 10_000:  # the matrix below would not fit into memory: the next rows in their place
        rows = (np.arange(len(vectors))[:, None] + np.arange(1, NEIGHBOURS + 1)) % len(vectors)
        return {"neighbours": rows.astype(np.int32), "scores": np.ones(rows.shape, np.float32)}
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    m = min(NEIGHBOURS, len(vectors) - 1)
    best = np.argsort(-cosines, axis=1)[:, :m].astype(np.int32)
    scores = np.maximum(np.take_along_axis(cosines, best, axis=1), 0).astype(np.float32)
    return {"neighbours": best, "scores": scores}


def _popular(n: int, seed: int) -> dict[str, NDArray[np.generic]]:
    rows = np.random.default_rng(seed + 2).permutation(n).astype(np.int32)
    return {"rows": rows, "scores": np.linspace(100, 1, n).astype(np.float32)}


def _golden(
    tower: bytes, ranker: bytes, items: ItemVectors, n_features: int, seed: int
) -> dict[str, NDArray[np.generic]]:
    n = len(items)
    random = np.random.default_rng(seed + 3)
    numbers = random.integers(0, n + 1, (1, _LENGTH))
    history: dict[str, NDArray[np.generic]] = {
        "history": numbers,
        "types": random.integers(0, 8, (1, _LENGTH)),
        "gaps": random.integers(0, 32, (1, _LENGTH)),
    }
    profile = np.ones((1, PROFILE_SLOTS), np.int64)
    candidates: _Arrays = {
        "items": random.integers(0, n + 1, 16),
        "features": random.gamma(1.0, 10.0, (16, n_features)).astype(np.float32),
        "position": np.zeros(16, np.int64),
    }
    arrays: dict[str, NDArray[np.generic]] = {}
    cases: tuple[tuple[str, bytes, _Arrays], ...] = (
        ("user_tower", tower, history | ({"profile": profile} if b"profile" in tower else {})),
        ("ranker", ranker, {**history, **candidates}),
    )
    for name, model, inputs in cases:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        taken = {i.name for i in session.get_inputs()}
        given = inputs if "history" in taken else {**inputs, "items": gathered(items.vectors, numbers)}
        found = session.run(outputs, {key: array for key, array in given.items() if key in taken})
        arrays |= {f"{name}/in/{key}": array for key, array in inputs.items()}
        arrays |= {f"{name}/out/{key}": array for key, array in zip(outputs, found, strict=True)}
    if items.linear is not None:
        whole = np.concatenate((arrays["user_tower/out/user_vector"], items.linear.of(numbers)), axis=1)
        arrays["user_tower/out/user_vector"] = whole
    return arrays
