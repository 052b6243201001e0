"""The latest visits before many instants, and which of them are of the candidate or of its categories."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import History
from recsys.features.aggregates import Split
from recsys.features.event_columns import KIND, NO_BUCKET, TIME_BITS, Array, EventColumns, Queries
from recsys.features.spec import Match

Places = NDArray[np.int32]
_BITS = 64  # of a mask


class Past:
    """The latest visits of each query's user, as spans [start, end) of the visits in `rows`, oldest first."""

    def __init__(self, events: EventColumns, queries: Queries, history: History) -> None:
        self.rows = np.flatnonzero(np.isin(events.kind, [KIND[t] for t in history.types]))
        self.times = events.time_ms[self.rows]
        keys = events.key[self.rows]
        self.starts, self.ends = spans_before(keys, self.times, queries.key, queries.time_ms, history.size)

    @cached_property
    def pairs(self) -> tuple[Places, Places, Places]:
        """Every (query, visit), and the visit's age: 0 is the query's newest. Small integers, since there are as many
        as queries times the history's size."""
        lengths = self.ends - self.starts
        query = np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
        last: Places = np.cumsum(lengths).astype(np.int32)
        after: Places = np.arange(1, query.size + 1).astype(np.int32)
        age: Places = last[query] - after
        newest: Places = self.ends.astype(np.int32) - 1
        visit: Places = newest[query] - age
        return query, visit, age


class AllVisits:
    """Of a history, whatever the items."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def count(self, newest: int) -> Array:
        counts: Array = np.minimum(self._past.ends - self._past.starts, newest)
        return counts

    def latest_ms(self, newest: int) -> Array:
        past = self._past
        there = np.flatnonzero(past.ends > past.starts) if newest else np.zeros(0, np.int64)
        result = np.zeros(past.ends.size, np.int64)
        result[there] = past.times[past.ends[there] - 1]
        return result


class MatchingVisits:
    """Of a history, those of the query's item, or of one that shares a category with it."""

    def __init__(self, past: Past, events: EventColumns, queries: Queries, match: Match) -> None:
        self._times, self._size = past.times, queries.key.size
        query, visit, age = past.pairs
        if match is Match.ITEM:
            matches = events.item[past.rows][visit] == queries.item[query]
        else:
            theirs, mine = (side.buckets[Split.CATEGORY] for side in (events, queries))
            matches = share_any(theirs[past.rows], visit, mine, query)
        self._query, self._visit, self._age = (places[matches] for places in (query, visit, age))

    def count(self, newest: int) -> Array:
        return np.bincount(self._query[self._age < newest], minlength=self._size).astype(np.int64)

    def latest_ms(self, newest: int) -> Array:
        chosen = self._age < newest
        result = np.zeros(self._size, np.int64)
        result[self._query[chosen]] = self._times[self._visit[chosen]]  # of several, the last one stays
        return result


def spans_before(
    keys: Array, times: Array, query_keys: Array, query_times: Array, size: int
) -> tuple[Array, Array]:
    """Per query, the span [start, end) of its key's latest `size` entries strictly before its time.

    `keys` and `times` are sorted by (key, time); a key must be below 2^20.
    """
    moments = keys << TIME_BITS | times
    known = np.maximum(query_keys, 0)
    ends = np.searchsorted(moments, known << TIME_BITS | query_times)
    starts = np.maximum(np.searchsorted(moments, known << TIME_BITS), ends - size)
    return np.where(query_keys < 0, ends, starts), ends


def share_any(left: Array, of_left: Places, right: Array, of_right: Places) -> NDArray[np.bool_]:
    """Whether rows of buckets, left[of_left] and right[of_right], have one in common: (n,) bool."""
    known = np.union1d(left, right)
    known = known[known != NO_BUCKET]
    masks = _masks(left, known)[of_left] & _masks(right, known)[of_right]
    shared: NDArray[np.bool_] = masks != 0
    if known.size > _BITS:  # several buckets have a bit in common
        at = np.flatnonzero(shared)
        theirs, mine = left[of_left[at]], right[of_right[at]]
        equal = [(theirs == column[:, None]) & (theirs != NO_BUCKET) for column in mine.T]
        shared[at] = np.any([pairs.any(axis=1) for pairs in equal], axis=0)
    return shared


def _masks(buckets: Array, known: Array) -> NDArray[np.uint64]:
    """(n,) for each row of buckets, a bit for each of its buckets by its place in `known`."""
    places = np.searchsorted(known, buckets).astype(np.uint64) % np.uint64(_BITS)
    bits = np.where(buckets == NO_BUCKET, np.uint64(0), np.uint64(1) << places)
    masks: NDArray[np.uint64] = np.bitwise_or.reduce(bits, axis=1)
    return masks
