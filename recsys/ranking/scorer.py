"""The ranking stage: `ranker.onnx` over all candidates of a request in one call.

The user part has batch size 1 in the graph, so it is computed once a request; only item and cross parts grow with
the number of candidates. One intra-op thread: requests run beside each other, not each on all cores.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.contracts.request import Candidates, Query
from recsys.contracts.types import Device, Head
from recsys.ranking.calibration import Calibration, calibrate
from recsys.ranking.value_model import ValueModel

INPUTS = ("history", "types", "gaps", "items", "features", "position")
OUTPUTS = tuple(str(head) for head in Head)


_PROVIDERS = {
    Device.CPU: ["CPUExecutionProvider"],
    Device.CUDA: ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class RankerSession:
    """`ranker.onnx` with checked names. Thread-safe: onnxruntime's `run` is."""

    def __init__(self, model: Path | bytes, threads: int = 1, device: Device = Device.CPU) -> None:
        """
        Raises:
            InvalidBundle: the file is no ONNX model, or has other inputs or outputs than docs/architecture.md says.
            InvalidConfig: CUDA is asked for and is not there.
        """
        if device is Device.CUDA:
            _prepare_cuda()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=_PROVIDERS[device])
        except Exception as error:  # onnxruntime raises many kinds without a common base of its own
            raise InvalidBundle(f"ranker.onnx: {error}") from error
        if (
            self._session.get_providers()[0] != _PROVIDERS[device][0]
        ):  # it goes on without, and only logs that
            raise InvalidConfig(
                "onnxruntime finds no CUDA device or libraries; its log on standard error says which"
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
    """Where CUDA and cuDNN are pip's wheels, onnxruntime finds them only after `preload_dlls`, new in 1.21.

    Raises:
        InvalidConfig: this onnxruntime has no CUDA.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise InvalidConfig(
            f"onnxruntime {ort.__version__} computes on the CPU alone: use the image recsys:serving-cuda, or"
            " RECSYS_RANK_DEVICE=cpu"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


class Ranker(Protocol):
    """What the scorer asks: a session here, or one in another process."""

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """All heads of the inputs `INPUTS`, shapes as in docs/architecture.md."""


class RankScorer:
    """`recsys.pipeline.stages.Scorer`: sets every head's score and their value as the order."""

    name = "rank"

    def __init__(
        self,
        session: Ranker,
        trained_items: int,
        calibrations: Mapping[Head, Calibration],
        value_model: ValueModel,
        optional: bool = True,
    ) -> None:
        """
        Args:
            trained_items: rows from here on are unknown to the model (item number 0).
            optional: when it fails, go on with recall's order and say so in `degraded`.
        """
        self.optional = optional
        self._session = session
        self._trained_items = trained_items
        self._calibrations = dict(calibrations)
        self._value_model = value_model

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        """Non-finite features have a defined reading inside the model; scores are finite for every input."""
        if not len(candidates):
            return candidates
        raw = self._session.run(self._inputs(query, candidates))
        scores = calibrate(raw, self._calibrations)
        return replace(candidates, scores=scores, score=self._value_model.value(scores))

    def _inputs(self, query: Query, candidates: Candidates) -> dict[str, NDArray[np.generic]]:
        rows = candidates.rows.astype(np.int64)
        return {
            "history": _one_row(query.history),
            "types": _one_row(query.types),
            "gaps": _one_row(query.gaps),
            "items": np.where(rows < self._trained_items, rows + 1, 0),
            "features": candidates.features,
            "position": np.zeros(len(candidates), np.int64),  # as if every one were shown at the top
        }


def _one_row(encoded: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) → (1, L); no history at all becomes one padding event, for the graph wants L ≥ 1."""
    return encoded.reshape(1, -1) if len(encoded) else np.zeros((1, 1), np.int64)
