"""The two-tower channel: the user's vector by onnxruntime, its nearest items by the index."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.request import Query, Rows
from recsys.models.attributes import profile_rows
from recsys.recall.vector_index import VectorIndex

INPUTS = ("history", "types", "gaps")
PROFILE = "profile"  # of towers that read the users' static attributes
OUTPUT = "user_vector"


class UserTower:
    """`user_tower.onnx` with checked names. Thread-safe: onnxruntime's `run` is."""

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        """
        Raises:
            InvalidBundle: no ONNX model, or one with other inputs or outputs.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds without a common base of its own
            raise InvalidBundle(f"user_tower.onnx: {error}") from error
        inputs = {i.name for i in self._session.get_inputs()}
        outputs = [o.name for o in self._session.get_outputs()]
        self.takes_profile = PROFILE in inputs
        if inputs - {PROFILE} != set(INPUTS) or outputs != [OUTPUT]:
            raise InvalidBundle(
                f"user_tower.onnx: inputs {sorted(inputs)} and outputs {outputs}, expected {INPUTS}, perhaps {PROFILE},"
                f" and {OUTPUT}"
            )

    def vectors(
        self,
        history: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
        profile: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """(B, L) int64 each (`recsys.models.encoding`) → (B, d) float32.

        profile: (B, PROFILE_SLOTS) int64 of `recsys.models.attributes`; None: nothing is known of the users.
        """
        inputs = dict(zip(INPUTS, (history, types, gaps), strict=True))
        if self.takes_profile:
            inputs[PROFILE] = np.stack([profile_rows({})] * len(history)) if profile is None else profile
        found: NDArray[np.float32] = self._session.run([OUTPUT], inputs)[0]
        return found


class TwoTowerSource:
    """`recsys.pipeline.stages.Source`: the items nearest to the user; nothing for somebody of whom nothing is known."""

    def __init__(
        self,
        tower: UserTower,
        index: VectorIndex,
        limit: int = 300,
        name: str = "two_tower",
        optional: bool = True,
    ) -> None:
        self.name = name
        self.optional = optional
        self._tower = tower
        self._index = index
        self._limit = limit

    def recall(self, query: Query) -> Rows:
        """The nearest `limit` rows that may be shown.

        Asks for as many more as are hidden from the user, at most as many again: the index cannot leave them out.
        """
        profile = profile_rows(query.attributes)[None] if self._tower.takes_profile else None
        if not query.history.any() and (profile is None or not profile.any()):
            return np.empty(0, np.int32)
        vector = self._tower.vectors(query.history[None], query.types[None], query.gaps[None], profile)
        if not np.isfinite(vector).all():
            raise ValueError("the user tower gave NaN or infinity")
        rows = self._index.search(vector, self._limit + min(query.hidden, self._limit)).of(0)
        return rows[query.may_show(rows)][: self._limit]
