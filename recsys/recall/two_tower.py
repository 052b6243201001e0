"""The two-tower channel: the user's vector by compiled code or onnxruntime, its nearest items by the index."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.request import Query, Rows
from recsys.models.attributes import profile_rows
from recsys.models.onnx_session import open_session
from recsys.recall.compiled_tower import open_tower
from recsys.recall.item_vectors import LinearPart, gathered
from recsys.recall.vector_index import SelectiveIndex

ITEMS, TYPES, GAPS = "items", "types", "gaps"
HISTORY = "history"  # instead of `items` in towers of before this input: they hold a table of item vectors of their own
PROFILE = "profile"  # input of towers that read the users' static attributes
OUTPUT = "user_vector"


class OnnxTower:
    """`user_tower.onnx` with checked names. Thread-safe."""

    runtime = "onnxruntime"

    def __init__(self, model: Path | bytes, items: NDArray[np.float32]) -> None:
        """Raises `InvalidBundle`: as `UserTower`."""
        self._session = open_session("user_tower.onnx", model)
        self._items = items
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = [o.name for o in self._session.get_outputs()]
        self.takes_profile = PROFILE in inputs
        self._gathers = ITEMS in inputs
        events = ITEMS if self._gathers else HISTORY
        if inputs.keys() - {PROFILE} != {events, TYPES, GAPS} or outputs != [OUTPUT]:
            raise InvalidBundle(
                f"user_tower.onnx: inputs {sorted(inputs)} and outputs {outputs}, expected {ITEMS} (or {HISTORY}),"
                f" {TYPES}, {GAPS}, perhaps {PROFILE}, and {OUTPUT}; export it again with `recsys train recall`"
            )
        if self._gathers and inputs[ITEMS][-1] != items.shape[1]:
            raise InvalidBundle(
                f"user_tower.onnx: reads item vectors of {inputs[ITEMS][-1]} values, the bundle has {items.shape[1]}"
            )

    def vectors(
        self,
        history: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
        profile: NDArray[np.int64] | None,
    ) -> NDArray[np.float32]:
        """As `UserTower.vectors`; `profile` exactly if the tower takes it."""
        inputs: dict[str, NDArray[np.generic]] = {TYPES: types, GAPS: gaps}
        if self._gathers:
            inputs[ITEMS] = gathered(self._items, history)
        else:
            inputs[HISTORY] = history
        if profile is not None:
            inputs[PROFILE] = profile
        found: NDArray[np.float32] = self._session.run([OUTPUT], inputs)[0]
        return found


class UserTower:
    """The bundle's user tower, by compiled code or onnxruntime. Thread-safe."""

    def __init__(
        self,
        model: Path | bytes,
        items: NDArray[np.float32],
        native: bool = False,
        linear: LinearPart | None = None,
    ) -> None:
        """items: (n_items, d) the bundle's item vectors, which the tower reads as well. native: compiled code runs it
        if the model's folder has weights for that. linear: of the bundle's items, if it has one.

        Raises:
            InvalidBundle: not an ONNX model, one with other inputs or outputs, or for vectors of another length.
        """
        compiled = open_tower(model.parent, items) if native and isinstance(model, Path) else None
        self._tower = compiled or OnnxTower(model, items)
        self.takes_profile = self._tower.takes_profile
        self.runtime = self._tower.runtime
        self._linear = linear

    def vectors(
        self,
        history: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
        profile: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """(B, L) int64 each (`recsys.models.encoding`) → (B, d) float32, (B, d + r) with a linear part of rank r.

        profile: (B, PROFILE_SLOTS) int64 of `recsys.models.attributes`; None: unknown users.
        Raises `ValueError`: the history has numbers that are no items of the bundle.
        """
        if not self.takes_profile:
            profile = None
        elif profile is None:
            profile = np.stack([profile_rows({})] * len(history))
        found = self._tower.vectors(history, types, gaps, profile)
        return found if self._linear is None else np.concatenate((found, self._linear.of(history)), axis=1)


@dataclass(frozen=True, eq=False)
class TwoTowerSource:
    """`recsys.pipeline.stages.Source`: the items nearest to the user; nothing for an unknown user."""

    tower: UserTower
    index: SelectiveIndex
    limit: int = 300
    name: str = "two_tower"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        """The nearest `limit` rows that may be shown.

        The index finds eligible items alone. It cannot leave out what is hidden from this user, so it is asked for as
        many more, at most twice `limit` in all.
        """
        profile = profile_rows(query.attributes)[None] if self.tower.takes_profile else None
        if not query.history.any() and (profile is None or not profile.any()):
            return np.empty(0, np.int32)
        vector = self.tower.vectors(query.history[None], query.types[None], query.gaps[None], profile)
        if not np.isfinite(vector).all():
            raise ValueError("the user tower returned NaN or infinity")
        n = self.limit + min(query.hidden_from_user, self.limit)
        rows = self.index.search(vector, n, query.eligible).of(0)
        return rows[query.may_show(rows)][: self.limit]
