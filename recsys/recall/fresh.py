"""The newest items of the catalogue: how an unknown item gets its first impressions."""

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.request import Query, Rows
from recsys.contracts.types import MS_PER_MINUTE
from recsys.items.catalogue import NO_CODE, Catalogue

_DEPTH = 10  # the pool of new items is this many times the list
_SHARE = 0.2  # of the pool: the most that one creator, or category of items without creator, gets
_TURN_MS = MS_PER_MINUTE


@dataclass(eq=False)
class FreshSource:
    """`recsys.pipeline.stages.Source`: new items that are out. One half are the newest, newest first; the other half
    takes turns of a minute through the pool of those behind them, of which one creator has at most a fifth. So a burst
    of newer items cannot hide the others.

    The order is the same for every user, unless a filter or a region narrows what is eligible: then the pool is made of
    what that leaves. When the catalogue has changed, or an item comes out, one request recomputes
    it, at most every `refresh_ms`; the others use the old order meanwhile.

    max_age_ms: leave out older items; None: no limit.
    """

    catalogue: Catalogue
    limit: int = 50
    max_age_ms: int | None = None
    refresh_ms: int = 200  # by the requests' clock: a simulated day is the same when it is repeated
    name: str = "fresh"
    optional: bool = True

    def __post_init__(self) -> None:
        self._pool: Rows = np.empty(0, np.int32)
        self._made_of: tuple[int, Eligible | None] | None = None  # version of the catalogue, what is out
        self._narrowed: WeakKeyDictionary[Eligible, Rows] = WeakKeyDictionary()
        self._refreshed_ms = 0
        self._lock = threading.Lock()

    def recall(self, query: Query) -> Rows:
        pool = self.pool(query)
        pool = pool[query.may_show(pool)]
        first = self.limit - self.limit // 2
        newest, behind = pool[:first], pool[first:]
        turn = self.turns(query.now_ms) * (self.limit - first) % max(len(behind), 1)
        rows: Rows = np.concatenate((newest, np.roll(behind, -turn)[: self.limit - first]))
        return rows

    def pool(self, query: Query) -> Rows:
        """The new items that compete for the list, newest first."""
        eligible, now_ms = query.eligible, query.now_ms
        pool = self._of(eligible) if eligible and eligible.narrowed else self._current(eligible, now_ms)
        if self.max_age_ms is not None:
            pool = pool[self.catalogue.created_ms[pool] >= now_ms - self.max_age_ms]
        return pool

    def turns(self, now_ms: int) -> int:
        """How many turns there were."""
        return now_ms // _TURN_MS

    def _of(self, narrowed: Eligible) -> Rows:
        """The mask is made once per change of the catalogue, and the pool with it."""
        pool = self._narrowed.get(narrowed)
        if pool is None:
            pool = self._narrowed[narrowed] = _pool(self.catalogue, narrowed, _DEPTH * self.limit)
        return pool

    def _current(self, eligible: Eligible | None, now_ms: int) -> Rows:
        made_of = self.catalogue.version, eligible
        is_first = self._made_of is None
        is_due = is_first or abs(now_ms - self._refreshed_ms) >= self.refresh_ms
        if made_of != self._made_of and is_due and self._lock.acquire(blocking=is_first):
            try:
                self._pool = _pool(self.catalogue, eligible, _DEPTH * self.limit)
                self._made_of = made_of
                self._refreshed_ms = 0 if is_first else now_ms  # the first change is taken over at once
            finally:
                self._lock.release()
        return self._pool


def _pool(catalogue: Catalogue, eligible: Eligible | None, size: int) -> Rows:
    """(≤ size,) the newest eligible items, newest first, at most `_SHARE` of them of one group."""
    created = catalogue.created_ms
    known = catalogue.alive[: len(created)] & (created > 0)
    if eligible is not None:
        known &= eligible.of(np.arange(len(created), dtype=np.int32))
    creator, category = catalogue.creator[: len(created)], catalogue.main_category[: len(created)]
    groups = np.where(creator != NO_CODE, creator, NO_CODE - 1 - category)
    left, pool = np.flatnonzero(known), np.empty(0, np.int64)
    while len(left) and len(pool) < size:  # a round fills the pool, or ends what is left, or some group
        found = _newest(left, created, size - len(pool))
        pool = np.concatenate((pool, found))
        above = _place_in_group(groups[pool]) >= max(1, int(_SHARE * size))
        left = left[~np.isin(left, found) & ~np.isin(groups[left], groups[pool[above]])]
        pool = pool[~above]
    return _newest(pool, created, size).astype(np.int32)


def _newest(rows: NDArray[np.int64], created: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if len(rows) > n:
        rows = rows[np.argpartition(-created[rows], n - 1)[:n]]
    return rows[np.lexsort((-rows, -created[rows]))]


def _place_in_group(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many entries before it each entry's group has.

    >>> _place_in_group(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return places
