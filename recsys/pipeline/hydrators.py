"""Query hydrators: read the user from the online store, and encode it for recall and ranking."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace

from recsys.contracts.eligible import Eligible
from recsys.contracts.request import ELIGIBILITY, Query, Rows
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import DEEP
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.models.encoding import TYPE_NUMBERS, encode_visits
from recsys.native import core
from recsys.recall.repeat_consumption import EVERYTHING, RepeatPolicy, Seen

_ITEM_ID = attrgetter("item_id")
# names of the histories in `recsys.features.definitions`
_NO_VISITS: list[Visit] = []
ENGAGED, SEEN, DISLIKED = "engaged", "seen", "disliked"
_LEAST_LEFT = 0.5


class UserStates(Protocol):
    """A `FeatureStore`, or the nightly documents."""

    def user(self, user_id: str) -> EntityState: ...


@dataclass(frozen=True, eq=False)
class UserHydrator:
    """`stages.QueryHydrator`: the user's state and static attributes. Without it every user is unknown."""

    store: UserStates
    attributes_of: Callable[[str, EntityState], Mapping[str, str]] = lambda user_id, state: {}
    region_of: Callable[[str, EntityState], str] = lambda user_id, state: ""
    name: str = "user"
    optional: bool = True

    def hydrate_query(self, query: Query) -> Query:
        user = self.store.user(query.user_id)
        known = bool(user.cells or user.histories)
        return replace(
            query,
            user=user,
            known=known,
            attributes=self.attributes_of(query.user_id, user),
            region=query.region or self.region_of(query.user_id, user),
        )


@dataclass(frozen=True, eq=False)
class EligibilityHydrator:
    """`stages.QueryHydrator`: the items that time, region and filter of the request leave, and from which place on the
    request has narrowed its list. Required: without it a list could show an item outside its window."""

    eligibility: Eligibility
    name: str = ELIGIBILITY
    optional: bool = False

    def hydrate_query(self, query: Query) -> Query:
        asked = query.now_ms, query.filter, query.region
        eligible = self.eligibility.of(*asked)
        ineligible = self.eligibility.ineligible(*asked) if query.explain and eligible else {}
        narrowed_from = self._narrowed_from(query, eligible)
        return replace(query, eligible=eligible, ineligible=ineligible, narrowed_from=narrowed_from)

    def _narrowed_from(self, query: Query, eligible: Eligible | None) -> int:
        """A list is evidence of what the shop prefers (ADR 27) if its request left it the choice: half of what there
        is, without what is excluded, such as the pages before; and no further than the hundredth place behind these."""
        if query.filter is None and not query.excluded_items:
            return DEEP
        offered = eligible.offered if eligible else self.eligibility.offered(query.now_ms, query.region)
        excluded = self._excluded(query, eligible)
        left = (eligible.count if eligible and query.filter else offered) - excluded
        return 0 if left < _LEAST_LEFT * offered else max(0, DEEP - excluded)

    def _excluded(self, query: Query, eligible: Eligible | None) -> int:
        """How many items are excluded that could be shown else."""
        rows = self.eligibility.catalogue.rows_of(query.excluded_items)
        showable = self.eligibility.catalogue.alive[rows]
        return int(np.count_nonzero(showable if eligible is None else showable & eligible.of(rows)))


@dataclass(frozen=True, eq=False)
class HistoryHydrator:
    """`stages.QueryHydrator`: model inputs, recent items, and rows that must not be shown. Pure, so required.

    It reads `query.user`, so it follows the `UserHydrator`. Items newer than the bundle are recent and seen, but not
    among the model's inputs: the model does not know them.

    length: L, the history length that the models were trained with.
    repeats: which seen items may be recommended once more; by default none.
    native: compiled code encodes.
    """

    catalogue: Catalogue
    length: int
    repeats: RepeatPolicy = field(default_factory=RepeatPolicy)
    native: bool = False
    name: str = "history"
    optional: bool = False

    def hydrate_query(self, query: Query) -> Query:
        catalogue, histories = self.catalogue, query.user.histories
        policy = EVERYTHING if query.allow_seen else self.repeats
        seen = policy.split(histories.get(SEEN, _NO_VISITS), query.now_ms)
        if self.native:
            return self._compiled(query, seen)
        engaged = histories.get(ENGAGED, _NO_VISITS)
        encoded = encode_visits(engaged, catalogue.rows, query.now_ms, self.length, catalogue.trained)
        hidden = [*map(_ITEM_ID, seen.hidden), *map(_ITEM_ID, histories.get(DISLIKED, _NO_VISITS))]
        return replace(
            query,
            history=encoded.history,
            types=encoded.types,
            gaps=encoded.gaps,
            recent_rows=self._recent(engaged),
            seen_rows=self._sorted(hidden),
            repeat_rows=catalogue.rows_of(seen.returning),
            excluded_rows=self._sorted(query.excluded_items),
        )

    @cached_property
    def _encoder(self) -> Any:
        return core.HistoryEncoder(types=TYPE_NUMBERS, length=self.length)

    def _compiled(self, query: Query, seen: Seen) -> Query:
        catalogue, histories = self.catalogue, query.user.histories
        history, types, gaps, recent, hidden = self._encoder.encode(
            engaged=histories.get(ENGAGED, _NO_VISITS),
            seen=seen.hidden,
            disliked=histories.get(DISLIKED, _NO_VISITS),
            rows=catalogue.rows,
            now_ms=query.now_ms,
            trained=catalogue.trained,
        )
        return replace(
            query,
            history=history,
            types=types,
            gaps=gaps,
            recent_rows=recent,
            seen_rows=hidden,
            repeat_rows=catalogue.rows_of(seen.returning),
            excluded_rows=self._sorted(query.excluded_items) if query.excluded_items else query.excluded_rows,
        )

    def _recent(self, visits: list[Visit]) -> Rows:
        newest_first = dict.fromkeys(map(_ITEM_ID, reversed(visits)))
        return self.catalogue.rows_of(newest_first)

    def _sorted(self, item_ids: Iterable[str]) -> Rows:
        """Sorted rows without repeats. Repeats are rare, so `np.unique` would take ten times as long."""
        rows = self.catalogue.rows_of(item_ids)
        rows.sort()
        repeated = rows[1:] == rows[:-1]
        return np.delete(rows, np.flatnonzero(repeated)) if repeated.any() else rows
