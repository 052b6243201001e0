"""Query hydrators: what the online store knows of the user, and that as the arrays that recall and ranking read."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from recsys.contracts.request import Query, Rows
from recsys.contracts.state import EntityState, Visit
from recsys.items.catalogue import Catalogue
from recsys.models.encoding import encode_visits
from recsys.recall.repeat_consumption import RepeatConsumption

_ITEM_ID = attrgetter("item_id")
ENGAGED, SEEN = "engaged", "seen"  # names of the histories in `recsys.features.definitions`


class UserStates(Protocol):
    """A `FeatureStore`, or the documents of last night."""

    def user(self, user_id: str) -> EntityState: ...


class UserHydrator:
    """`stages.QueryHydrator`: the user's state and static attributes. Without it everybody is unknown."""

    def __init__(
        self,
        store: UserStates,
        attributes_of: Callable[[str, EntityState], Mapping[str, str]] = lambda user_id, state: {},
        name: str = "user",
        optional: bool = True,
    ) -> None:
        self.name = name
        self.optional = optional
        self._store = store
        self._attributes_of = attributes_of

    def hydrate_query(self, query: Query) -> Query:
        user = self._store.user(query.user_id)
        known = bool(user.cells or user.histories)
        return replace(query, user=user, known=known, attributes=self._attributes_of(query.user_id, user))


class HistoryHydrator:
    """`stages.QueryHydrator`: model inputs, recent items, and what must not be shown. Pure, so required.

    Reads `query.user`; goes after the `UserHydrator`. Items newer than the bundle are recent and seen, but not in
    the model's inputs: it does not know them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        length: int,
        repeat: RepeatConsumption | None = None,
        name: str = "history",
        optional: bool = False,
    ) -> None:
        """
        Args:
            length: L, the history length that the models were trained with.
            repeat: which seen items may be recommended once more; None: none.
        """
        self.name = name
        self.optional = optional
        self._catalogue = catalogue
        self._length = length
        self._repeat = repeat or RepeatConsumption()

    def hydrate_query(self, query: Query) -> Query:
        catalogue = self._catalogue
        engaged = query.user.histories.get(ENGAGED, [])
        encoded = encode_visits(engaged, catalogue.rows, query.now_ms, self._length, catalogue.trained)
        seen = query.user.histories.get(SEEN, [])
        repeated = dict.fromkeys(self._repeat.items(seen, query.now_ms))
        hidden = [item_id for item_id in map(_ITEM_ID, seen) if item_id not in repeated]
        return replace(
            query,
            history=encoded.history,
            types=encoded.types,
            gaps=encoded.gaps,
            recent_rows=self._recent(engaged),
            seen_rows=self._sorted(hidden),
            repeat_rows=catalogue.rows_of(repeated),
            excluded_rows=self._sorted(query.excluded_items),
        )

    def _recent(self, visits: list[Visit]) -> Rows:
        newest_first = dict.fromkeys(map(_ITEM_ID, reversed(visits)))
        return self._catalogue.rows_of(newest_first)

    def _sorted(self, item_ids: Iterable[str]) -> Rows:
        """Without repeats; there is seldom one, so `np.unique` would take ten times as long."""
        rows = self._catalogue.rows_of(item_ids)
        rows.sort()
        repeated = rows[1:] == rows[:-1]
        return np.delete(rows, np.flatnonzero(repeated)) if repeated.any() else rows
