"""The ranking stage: `ranker.onnx` over all candidates of a request in one call.

The user part of the graph has batch size 1, so it is computed once per request; only item and cross parts grow with the
number of candidates. One intra-op thread: the cores serve different requests in parallel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import onnxruntime as ort
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.contracts.request import Candidates, Query, Rows
from recsys.contracts.types import Device, Head
from recsys.features.tally import TallyReader
from recsys.models.onnx_session import open_session
from recsys.ranking.calibration import Calibration, calibrate
from recsys.ranking.taste import TasteModel
from recsys.ranking.value_model import ValueModel

INPUTS = ("history", "types", "gaps", "items", "features", "position")
OUTPUTS = tuple(str(head) for head in Head)

_PROVIDERS = {
    Device.CPU: ["CPUExecutionProvider"],
    Device.CUDA: ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class RankerSession:
    """`ranker.onnx` with checked names. Thread-safe."""

    runtime: ClassVar[str] = "onnxruntime"

    def __init__(self, model: Path | bytes, threads: int = 1, device: Device = Device.CPU) -> None:
        """
        Raises:
            InvalidBundle: not an ONNX model, or one whose inputs or outputs differ from docs/architecture.md.
            InvalidConfig: CUDA is requested and not available.
        """
        if device is Device.CUDA:
            _prepare_cuda()
        self._session = open_session("ranker.onnx", model, threads, _PROVIDERS[device])
        # onnxruntime falls back to the CPU and only logs it
        if self._session.get_providers()[0] != _PROVIDERS[device][0]:
            raise InvalidConfig(
                "onnxruntime finds no CUDA device or libraries; see its log on standard error"
            )
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = [o.name for o in self._session.get_outputs()]
        if set(inputs) != set(INPUTS) or set(outputs) != set(OUTPUTS):
            raise InvalidBundle(
                f"ranker.onnx: inputs {sorted(inputs)} and outputs {outputs}, expected {INPUTS} and {OUTPUTS}"
            )
        width = inputs["features"].shape[1]
        self.n_features: int | None = width if isinstance(width, int) else None

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """All heads of the inputs `INPUTS`, shapes as in docs/architecture.md."""
        found: Sequence[NDArray[np.float32]] = self._session.run(OUTPUTS, dict(arrays))
        return dict(zip(Head, found, strict=True))


def _prepare_cuda() -> None:
    """Load CUDA and cuDNN. Those of pip's wheels are found only after `preload_dlls`, new in onnxruntime 1.21.

    Raises:
        InvalidConfig: this onnxruntime has no CUDA support.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise InvalidConfig(
            f"onnxruntime {ort.__version__} computes on the CPU alone: use the image recsys:serving-cuda, or"
            " RECSYS_RANK_DEVICE=cpu"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


class Ranker(Protocol):
    """What the scorer calls: onnxruntime or compiled code in this process, or another process."""

    runtime: ClassVar[str]  # which of them, for people

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """All heads of the inputs `INPUTS`, shapes as in docs/architecture.md."""


@dataclass(frozen=True, eq=False)
class TasteColumn:
    """The offsets of a request's candidates as further features. `buckets_of`: rows → (N, 4) category buckets."""

    model: TasteModel
    tally: TallyReader
    buckets_of: Callable[[Rows], NDArray[np.int64]]

    def added(self, query: Query, candidates: Candidates) -> NDArray[np.float32]:
        """(N, D + 2) float32."""
        tally = self.tally.read(query.user, query.now_ms)
        owner, buckets = np.zeros(len(candidates), np.int64), self.buckets_of(candidates.rows)
        offsets = self.model.offsets(tally, owner, buckets, candidates.features)
        return np.column_stack((candidates.features, offsets))


@dataclass(frozen=True, eq=False)
class RankScorer:
    """`recsys.pipeline.stages.Scorer`: sets every head's score, and the value model's score as the order.

    trained_items: rows from here on are unknown to the model (item number 0).
    taste: gives the last features of a ranker that was trained with one.
    optional: when ranking fails, continue with recall's order and report `degraded`.
    """

    session: Ranker
    trained_items: int
    calibrations: Mapping[Head, Calibration]
    value_model: ValueModel
    taste: TasteColumn | None = None
    optional: bool = True
    name: str = "rank"

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        """Scores are finite for every input: the model defines how it reads non-finite features."""
        if not len(candidates):
            return candidates
        raw = self.session.run(self.inputs(query, candidates))
        scores = calibrate(raw, self.calibrations)
        return replace(candidates, scores=scores, score=self.value_model.value(scores))

    def inputs(self, query: Query, candidates: Candidates) -> dict[str, NDArray[np.generic]]:
        """What the ranker reads of a request: `INPUTS`."""
        rows = candidates.rows.astype(np.int64)
        return {
            "history": _one_row(query.history),
            "types": _one_row(query.types),
            "gaps": _one_row(query.gaps),
            "items": np.where(rows < self.trained_items, rows + 1, 0),
            "features": candidates.features if self.taste is None else self.taste.added(query, candidates),
            "position": np.zeros(len(candidates), np.int64),  # as if each were shown at the top
        }


def _one_row(encoded: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) → (1, L); an empty history becomes one padding event, since the graph needs L ≥ 1."""
    return encoded.reshape(1, -1) if len(encoded) else np.zeros((1, 1), np.int64)
