"""The dense part of a student as ONNX, `edge.onnx`: the same file ranks in a browser, on Android and on iOS.

It is written from the weights for compiled code, node by node, not traced: the graph has some seventy nodes whose
names and order never change, so that two nights' files differ in weights alone and a delta is small. Weights that half
precision holds exactly are stored so; the graph computes in float32 and reproduces the server's calibrated heads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.models.encoding import OFFSET_LIMIT, OFFSETS
from recsys.models.golden import golden_part
from recsys.models.mapped_arrays import mapped_arrays
from recsys.models.onnx_session import open_session
from recsys.ranking.calibration import Calibration, Constant, Isotonic, Platt, read_calibrations
from recsys.ranking.compiled import KERNEL
from recsys.ranking.edge import (
    EDGE,
    GOLDEN_IN,
    GOLDEN_OUT,
    OUTPUTS,
    VALUE,
    EdgeTable,
    edge_inputs,
    server_scores,
)
from recsys.ranking.value_model import ValueModel
from training.ranker.artifacts import CALIBRATION, GOLDEN

TOLERANCE = 1e-4  # of every output, compared with the server's
_GOLDEN_CANDIDATES = 4  # a device runs them before it uses a model
_CLIP = 6.0  # as `recsys.models.blocks`, which needs torch
_OPSET, _IR = 18, 9
_TINY = 1e-6  # probabilities are clipped to 1e-6 before Platt's logit

Arrays = Mapping[str, NDArray[Any]]


def export_edge(folder: Path) -> None:
    """Write `edge.onnx` next to `folder`'s ranker_kernel.safetensors, and its golden arrays into golden.safetensors.

    Raises:
        InvalidBundle: the model computes other scores than the golden ones of the ranker.
    """
    arrays, golden = mapped_arrays(folder / KERNEL), load_file(folder / GOLDEN)
    path = folder / CALIBRATION
    calibrations = read_calibrations(path) if path.exists() else {}
    model, value = edge_model(arrays, calibrations), ValueModel()
    inputs = edge_inputs(EdgeTable(arrays), golden_part(golden, "ranker/in/"), value)
    raw = {Head(name): scores for name, scores in golden_part(golden, "ranker/out/").items()}
    found = open_session(EDGE, model).run(OUTPUTS, inputs)
    wanted = server_scores(raw, calibrations, value)
    for name, scores in zip(OUTPUTS, found, strict=True):
        difference = np.abs(scores - wanted[name])
        if not (difference <= TOLERANCE + TOLERANCE * np.abs(wanted[name])).all():
            raise InvalidBundle(
                f"{folder / EDGE}: {name} differs from the ranker's by {difference.max():.2g}"
            )
    few = slice(_GOLDEN_CANDIDATES)
    small = {n: array[few] if n in ("rows", "scales", "features") else array for n, array in inputs.items()}
    golden |= {f"{GOLDEN_IN}{name}": np.ascontiguousarray(array) for name, array in small.items()}
    golden |= {f"{GOLDEN_OUT}{name}": scores[few] for name, scores in zip(OUTPUTS, found, strict=True)}
    (folder / EDGE).write_bytes(model)
    save_file(golden, folder / GOLDEN)


def edge_model(arrays: Arrays, calibrations: Mapping[Head, Calibration]) -> bytes:
    """ONNX: `recsys.ranking.edge.INPUTS` → `OUTPUTS`. `arrays`: as `training.ranker.kernel` writes them."""
    g, width = _Graph(arrays), arrays["field_bias"].size
    keys, values, hidden, summary = _user(g, width)
    item, bias = _item_parts(g, "rows", "scales", width)
    x = _joined(g, item, _attended(g, item, keys, values, hidden, width), summary)
    deep = g.op("Add", x, g.op("Mul", x, g.linear("up", g.linear("down", x))))
    for number in range(sum(name.startswith("expert") and name.endswith("_w") for name in arrays)):
        deep = g.op("Relu", g.linear(f"expert{number}", deep))
    logits = g.op("Add", g.linear("tower", deep), g.op("Add", g.linear("wide", x), bias))
    if arrays["offset"][0]:
        logits = g.op("Add", logits, _offset(g, arrays["mean"].size))
    heads = []
    for i, head in enumerate(Head):
        logit = g.op("Gather", logits, g.integers(i), axis=1)
        heads.append(_calibrated(g, logit, head, calibrations.get(head)))
    _value(g, heads)
    for head, name in zip(Head, heads, strict=True):
        g.op("Identity", name, name=str(head))
    return g.model(width + len(Head), arrays["mean"].size)


class _Graph:
    """Nodes and constants in the order in which they are asked for."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node of one output, and return the output's name."""
        name = name or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def array(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def weights(self, name: str) -> str:
        """One of the arrays, as float32."""
        return self.floats(self._arrays[name])

    def floats(self, values: Any) -> str:
        """A float32 constant; a matrix is stored in half precision where that loses nothing."""
        exact = np.asarray(values, np.float32)
        with np.errstate(over="ignore"):
            half = exact.astype(np.float16)
        is_half = exact.ndim == 2 and np.array_equal(half, exact)
        stored = self._constant(half if is_half else exact)
        return self.op("Cast", stored, to=TensorProto.FLOAT) if is_half else stored

    def integers(self, values: Any) -> str:
        return self._constant(np.asarray(values, np.int64))

    def linear(self, name: str, x: str) -> str:
        return self.op("Add", self.op("MatMul", x, self.weights(f"{name}_w")), self.weights(f"{name}_b"))

    def clip(self, x: str, low: float, high: float) -> str:
        return self.op("Clip", x, self.floats(low), self.floats(high))

    def model(self, row: int, n_features: int) -> bytes:
        def of(name: str, dtype: int, *shape: str | int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, shape)

        graph = helper.make_graph(
            self._nodes,
            "edge",
            [
                of("history_rows", TensorProto.INT16, "events", row),
                of("history_scales", TensorProto.FLOAT, "events"),
                of("types", TensorProto.INT32, "events"),
                of("gaps", TensorProto.INT32, "events"),
                of("rows", TensorProto.INT16, "candidates", row),
                of("scales", TensorProto.FLOAT, "candidates"),
                of("features", TensorProto.FLOAT, "candidates", n_features),
                of("weights", TensorProto.FLOAT, len(Head)),
            ],
            [of(name, TensorProto.FLOAT, "candidates") for name in OUTPUTS],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name


def _item_parts(g: _Graph, rows: str, scales: str, width: int) -> tuple[str, str]:
    """Embeddings (n, width) and biases (n, heads) of rows as they are sent."""
    columns = g.integers([1])
    exact = g.op("Mul", g.op("Cast", rows, to=TensorProto.FLOAT), g.op("Unsqueeze", scales, columns))
    split = g.integers([width]), g.integers([width + len(Head)])
    embedding = g.op("Slice", exact, g.integers([0]), split[0], columns)
    return embedding, g.op("Slice", exact, split[0], split[1], columns)


def _user(g: _Graph, width: int) -> tuple[str, str, str, str]:
    """Keys, values (L, width each), what hides padding from the attention (1, L), and the mean event (1, width)."""
    columns = g.integers([1])
    there = g.op("Cast", g.op("Greater", "history_scales", g.floats(0.0)), to=TensorProto.FLOAT)
    mask = g.op("Unsqueeze", there, columns)
    items, _ = _item_parts(g, "history_rows", "history_scales", width)
    kinds = g.op(
        "Add", g.op("Gather", g.weights("types"), "types"), g.op("Gather", g.weights("gaps"), "gaps")
    )
    events = g.op("Mul", g.op("Add", items, kinds), mask)
    first = g.integers([0])
    count = g.op("Max", g.op("ReduceSum", there, first), g.floats(1.0))
    summary = g.op("Div", g.op("ReduceSum", events, first), count)
    hidden = g.op("Mul", g.op("Sub", g.floats(1.0), there), g.floats(-1e9))
    return g.linear("key", events), g.op("Mul", g.linear("value", events), mask), hidden, summary


def _attended(g: _Graph, item: str, keys: str, values: str, hidden: str, width: int) -> str:
    query = g.op("Mul", g.linear("query", item), g.floats(width**-0.5))
    scores = g.op("Add", g.op("MatMul", query, g.op("Transpose", keys, perm=[1, 0])), hidden)
    return g.op("MatMul", g.op("Softmax", scores, axis=1), values)


def _joined(g: _Graph, item: str, attended: str, summary: str) -> str:
    """The input of crosses and expert. Every candidate has position 0, as if it were shown at the top."""
    shape = g.op("Concat", g.op("Shape", "features", start=0, end=1), g.integers([1]), axis=0)
    position = g.op("Expand", g.floats(g.array("positions")[:1]), shape)
    parts = item, attended, g.op("Mul", item, summary), _standardised(g), position
    return g.op("Concat", *parts, axis=1)


def _standardised(g: _Graph) -> str:
    """As `recsys.models.blocks.NumericFeatures.standardise`."""
    size = g.op("Log", g.op("Add", g.op("Abs", "features"), g.floats(1.0)))
    sign = g.clip(g.op("Mul", "features", g.floats(1e30)), -1.0, 1.0)
    scale = g.weights("scale")
    centre = g.floats(g.array("mean") * g.array("scale"))
    z = g.op("Sub", g.op("Mul", g.op("Mul", size, sign), scale), centre)
    return g.clip(g.op("Where", g.op("IsNaN", z), g.floats(0.0), z), -_CLIP, _CLIP)


def _offset(g: _Graph, n_features: int) -> str:
    """(N, heads): log odds of the taste model, for the first heads."""
    bounds = g.integers([n_features - OFFSETS]), g.integers([n_features]), g.integers([1])
    given = g.op("Slice", "features", *bounds)
    finite = g.op("Where", g.op("IsNaN", given), g.floats(0.0), given)
    pads = g.integers([0, 0, 0, len(Head) - OFFSETS])
    return g.op("Pad", g.clip(finite, -OFFSET_LIMIT, OFFSET_LIMIT), pads)


def _calibrated(g: _Graph, logit: str, head: Head, calibration: Calibration | None) -> str:
    """(N,) as `recsys.ranking.calibration.calibrate` gives it."""
    if isinstance(calibration, Constant):
        return g.op("Add", g.op("Mul", logit, g.floats(0.0)), g.floats(calibration.value))
    if head is Head.DWELL:
        raw = g.op("Relu", logit)
    elif isinstance(calibration, Platt):
        limit = float(np.log(1 - _TINY) - np.log(_TINY))
        scaled = g.op("Mul", g.clip(logit, -limit, limit), g.floats(calibration.slope))
        return g.op("Sigmoid", g.op("Add", scaled, g.floats(calibration.offset)))
    else:
        raw = g.op("Sigmoid", logit)
    return _interpolated(g, raw, calibration) if isinstance(calibration, Isotonic) else raw


def _interpolated(g: _Graph, raw: str, knots: Isotonic) -> str:
    """Linear between knots, constant outside: each piece adds its slope times how much of it lies below."""
    x, y = np.array(knots.raw), np.array(knots.calibrated)
    columns = g.integers([1])
    above = g.op("Sub", g.op("Unsqueeze", raw, columns), g.floats(x[:-1]))
    below = g.op("Min", g.op("Max", above, g.floats(0.0)), g.floats(np.diff(x)))
    slopes = g.floats((np.diff(y) / np.diff(x))[:, None])
    return g.op("Add", g.op("Squeeze", g.op("MatMul", below, slopes), columns), g.floats(y[0]))


def _value(g: _Graph, heads: Sequence[str]) -> None:
    """As `recsys.ranking.value_model.ValueModel.value`."""
    by_head = dict(zip(Head, heads, strict=True))
    parts = []
    for i, (head, scores) in enumerate(by_head.items()):
        expected = g.op("Mul", scores, by_head[Head.CLICK]) if head is Head.CONVERSION else scores
        parts.append(g.op("Mul", expected, g.op("Gather", "weights", g.integers(i))))
    g.op("Sum", *parts, name=VALUE)
