"""What a device ranks with: the dense part of the student, `edge.onnx`, and the rows of the items that it is sent.

Nearly all bytes of a ranker are item tables. A device gets the rest once for each bundle, and with each list the rows
of the candidates and of the user's history: an item's embedding with the parts of its fields already added, and its
bias in each head. `training.compression.export_edge` writes the model; ADR 29 says why it is split so.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.models.hashing import hashed_rows
from recsys.ranking.calibration import Calibration, calibrate
from recsys.ranking.value_model import ValueModel

EDGE = "edge.onnx"
GOLDEN_IN, GOLDEN_OUT = "edge/in/", "edge/out/"  # in a bundle's golden.safetensors
# Inputs of the model: L events, oldest first, N candidates, W = width + heads.
INPUTS = (
    "history_rows",  # (L, W) int16
    "history_scales",  # (L,) float32; 0: padding, of which an empty history has one
    "types",  # (L,) int32
    "gaps",  # (L,) int32
    "rows",  # (N, W) int16
    "scales",  # (N,) float32
    "features",  # (N, D) float32
    "weights",  # (heads,) float32, of the value model
)
VALUE = "value"
OUTPUTS = (*(str(head) for head in Head), VALUE)  # (N,) float32 each: calibrated heads, and what orders them
_LARGEST, _SMALLEST = 32_767, 1e-30


class EdgeRows(NamedTuple):
    """Items as a device reads them: `rows` · `scales` is the embedding and the biases.

    16 bits, not 8: with the parts of its fields added, an item's embedding is no longer on a grid of 8 bits, and to
    round it to one would change scores by hundredths.
    """

    rows: NDArray[np.int16]  # (n, width + heads)
    scales: NDArray[np.float32]  # (n,)


class EdgeTable:
    """Rows of items, read from a ranker's weights for compiled code."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """`arrays`: of `ranker_kernel.safetensors`, which may be mapped."""
        self._arrays = arrays
        self._buckets = int(arrays["buckets"][0])
        self.n_items = len(arrays["codes"]) - 1

    def rows(self, numbers: NDArray[np.int64]) -> EdgeRows:
        """(n,) item numbers, 0 or out of range: unknown, → their rows."""
        given = self._arrays
        known = np.where((numbers >= 0) & (numbers <= self.n_items), numbers, 0)
        exact = self._embedded(known)
        exact[:, : given["fields"].shape[1]] += given["field_bias"]
        starts = given["starts"]
        if len(starts):
            code_bytes = given["codes"].shape[1] // len(starts)
            parts = given["codes"][known].reshape(len(known), len(starts), code_bytes).astype(np.int64)
            codes = (parts << (8 * np.arange(code_bytes))).sum(axis=2) + starts
            exact[:, : given["fields"].shape[1]] += given["fields"][codes].sum(axis=1)
        return quantized(exact)

    def _embedded(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = self._arrays["rows"][rows] * self._arrays["row_scale"][rows, None]
            return found

        if not self._buckets:
            return read(numbers)
        first, second = (np.where(numbers > 0, rows, 0) for rows in hashed_rows(numbers, self._buckets))
        return read(first) + read(second)


def quantized(exact: NDArray[np.float32]) -> EdgeRows:
    """(n, W) float32 in 16 bits, with a scale above 0 for each row: 0 stands for padding."""
    scales = np.maximum(np.abs(exact).max(axis=1) / _LARGEST, _SMALLEST).astype(np.float32)
    rows = np.clip(np.rint(exact / scales[:, None]), -_LARGEST, _LARGEST)
    return EdgeRows(rows.astype(np.int16), scales)


def edge_inputs(
    table: EdgeTable, ranker_inputs: Mapping[str, NDArray[Any]], value: ValueModel
) -> dict[str, NDArray[Any]]:
    """`INPUTS` from those of the ranker (`recsys.ranking.scorer.INPUTS`), all of whose positions are 0. Padding and
    unknown items of the history are left out, as the ranker masks them."""
    history = ranker_inputs["history"].reshape(-1)
    there = (history > 0) & (history <= table.n_items)
    events = table.rows(history[there])
    types, gaps = (ranker_inputs[name].reshape(-1)[there].astype(np.int32) for name in ("types", "gaps"))
    if not there.any():
        events = EdgeRows(np.zeros((1, events.rows.shape[1]), np.int16), np.zeros(1, np.float32))
        types = gaps = np.zeros(1, np.int32)
    candidates = table.rows(ranker_inputs["items"])
    return {
        "history_rows": events.rows,
        "history_scales": events.scales,
        "types": types,
        "gaps": gaps,
        "rows": candidates.rows,
        "scales": candidates.scales,
        "features": ranker_inputs["features"],
        "weights": np.array([value.weights.get(head, 0.0) for head in Head], np.float32),
    }


def server_scores(
    raw: Mapping[Head, NDArray[np.float32]], calibrations: Mapping[Head, Calibration], value: ValueModel
) -> dict[str, NDArray[np.float32]]:
    """`OUTPUTS` as the server computes them from a ranker's heads."""
    heads = calibrate(raw, calibrations)
    return {**{str(head): heads[head] for head in Head}, VALUE: value.value(heads)}
