"""The online read: one user and N candidates to one (N, D) float32 matrix.

All totals of the user are computed at once (`UserTotals`), the item side is gathered from `ItemColumns`, and only what
depends on both is computed per candidate.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import EntityState, Visit
from recsys.features.aggregates import BUCKETS, Entity, Split, category_buckets
from recsys.features.feature_set import FeatureSet, runs
from recsys.features.item_columns import ItemColumns
from recsys.features.spec import MAX_VISITS, Feature, Floats, HistoryQuery, Ints, Match, Total, number
from recsys.features.user_totals import UserTotals


class ItemSide(Protocol):
    """What is known of the items: `ItemColumns`, or a batch job's documents. See `ItemColumns` for the members."""

    @property
    def catalogue(self) -> ItemColumns:
        """What no event changes: categories, creators, attributes."""

    def values(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]: ...

    def total(self, total: Total, rows: NDArray[np.int32]) -> NDArray[np.int64]: ...


def assemble(
    features: FeatureSet,
    user: EntityState,
    user_attributes: Mapping[str, str],
    items: ItemSide,
    rows: NDArray[np.int32],
    now_ms: int,
    context: Mapping[str, str],
) -> NDArray[np.float32]:
    """The features of one user and the items in `rows`, as of `now_ms`.

    Args:
        user: as the store has it; empty for an unknown user.
        user_attributes: static attributes by name.
        items: made with the same `features`.
        rows: (N,) int32, rows of `items`.
        context: of the request, such as `tab`.

    Returns:
        (N, D) float32 in `features.names` order; every value is finite.
    """
    plan = _plan(features)
    matrix = np.empty((len(rows), features.dimension), np.float32)
    steady = items.values(rows, now_ms)
    for there, here in items.catalogue.runs:
        matrix[:, there] = steady[:, here]
    source = _RequestSource(plan.totals, user, user_attributes, items, rows, now_ms, context)
    shared = np.array([v for f in plan.shared for v in f.values(source)], np.float32)
    for there, here in plan.shared_runs:
        matrix[:, there] = shared[here]
    paired = chain.from_iterable(f.values(source) for f in plan.paired)
    for column, value in zip(plan.paired_columns, paired, strict=True):
        matrix[:, column] = value
    return matrix


class _Plan(NamedTuple):
    """`shared`: one value per request (user, context). `paired`: one per candidate, not cached with the item."""

    totals: UserTotals
    shared: tuple[Feature, ...]
    shared_runs: list[tuple[slice, slice]]
    paired: tuple[Feature, ...]
    paired_columns: list[int]


@lru_cache(maxsize=8)
def _plan(features: FeatureSet) -> _Plan:
    shared, shared_columns = features.placed(lambda f: f.entity in (Entity.USER, Entity.CONTEXT))
    paired, paired_columns = features.placed(
        lambda f: f.entity is Entity.USER_ITEM or (f.entity is Entity.ITEM and f.ticking)
    )
    return _Plan(UserTotals(features), shared, runs(shared_columns), paired, paired_columns.tolist())


_BITS = 1 << np.arange(MAX_VISITS)


@lru_cache(maxsize=1 << 12)
def distinct_buckets(categories: tuple[str, ...]) -> tuple[int, ...]:
    """The buckets of an item's main categories, each once."""
    return tuple(set(category_buckets(categories)))


class _RequestSource:
    """`Source` of one request: numbers for the user, arrays (N,) for what depends on the candidate."""

    def __init__(
        self,
        totals: UserTotals,
        user: EntityState,
        user_attributes: Mapping[str, str],
        items: ItemSide,
        rows: NDArray[np.int32],
        now_ms: int,
        context: Mapping[str, str],
    ) -> None:
        self.now_ms: Ints = now_ms
        self._attributes = {Entity.USER: user_attributes, Entity.CONTEXT: context}
        self._items, self._catalogue, self._rows = items, items.catalogue, rows
        # (4, N), (1, N) and (1, N): looping over few long rows is faster than reducing many short ones
        self._buckets = {
            Split.CATEGORY: np.ascontiguousarray(self._catalogue.categories.take(rows, axis=0).T),
            Split.CREATOR: np.ascontiguousarray(self._catalogue.creators.take(rows, axis=0).T),
            Split.ITEM: self._catalogue.ids.take(rows)[None],
        }
        self._user_totals = totals.read(user.cells, now_ms, self._buckets)
        self._visits = {name: visits[-MAX_VISITS:] for name, visits in user.histories.items()}
        self._times: dict[str, NDArray[np.int64]] = {}
        self._masks: dict[tuple[str, Match], Ints] = {}

    def total(self, total: Total) -> Ints:
        found = self._user_totals.get(total)
        return self._items.total(total, self._rows) if found is None else found

    def count(self, query: HistoryQuery) -> Ints:
        mask = self._matching(query)
        if isinstance(mask, int):
            return mask.bit_count()
        return np.bitwise_count(mask).astype(np.int64)

    def latest_ms(self, query: HistoryQuery) -> Ints:
        name = query.history.name
        times = self._times.get(name)
        if times is None:
            times = np.array([0, *(visit[0] for visit in self._visits.get(name, ()))], np.int64)
            self._times[name] = times
        mask = self._matching(query)
        if isinstance(mask, int):
            return int(times[mask.bit_length()])
        # the exponent of a mask as a float is the number of its highest bit, from 1
        return times[np.frexp(mask)[1]]

    def _matching(self, query: HistoryQuery) -> Ints:
        """Bit i: the i-th of the latest visits matches and is among the newest that the query reads."""
        key = query.history.name, query.match
        visits = self._visits.get(query.history.name, [])
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self._mask(visits, query.match)
        older = len(visits) - query.newest
        return mask >> older << older if older > 0 else mask

    def _mask(self, visits: Sequence[Visit], match: Match) -> Ints:
        if match is Match.ANY:
            return (1 << len(visits)) - 1
        if match is Match.ITEM:
            return self._same_item(visits)
        buckets = [distinct_buckets(visit[4]) for visit in visits]
        table = np.zeros(BUCKETS + 1, np.int64)
        bits = np.repeat(_BITS[: len(visits)], list(map(len, buckets)))
        # each bit enters once, so the sum is a bitwise or
        np.add.at(table, list(chain.from_iterable(buckets)), bits)
        first: NDArray[np.int64]
        first, *others = table.take(self._buckets[Split.CATEGORY])
        for other in others:
            first = first | other
        return first

    def _same_item(self, visits: Sequence[Visit]) -> Ints:
        visited = self._catalogue.rows([visit[3] for visit in visits])
        hits = np.flatnonzero(visited[:, None] == self._rows)
        if not hits.size:
            return 0  # the usual case: seen items are filtered out before
        visit, candidate = np.divmod(hits, len(self._rows))
        mask = np.zeros(len(self._rows), np.int64)
        np.add.at(mask, candidate, _BITS[visit])
        return mask

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        return number(self._attributes[entity].get(name), default, vocabulary)

    def categories(self) -> Ints:
        return self._catalogue.counted_categories(self._rows)

    def created_ms(self) -> Ints:
        return self._catalogue.created(self._rows)
