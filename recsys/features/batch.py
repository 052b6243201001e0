"""Features of many instants from sorted events: the batch kernel, which Spark runs on each bucket of keys.

The stream adds to cells and a reader sums tiles; this kernel gets the same integers by cumulative sums and binary
search. `BatchSource(entity, events, queries)` is a `Source` whose arrays have one entry per query. Numpy only, so it
runs unchanged in a Spark executor, in a test and in a notebook.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import MAX_AMOUNT, MAX_SUM, History, Op
from recsys.contracts.types import EventType
from recsys.features.aggregates import (
    BUCKETS,
    LOG2_SCALE,
    LOG2_STEPS,
    LOOKS_AT,
    OF_VALUES,
    Aggregate,
    Entity,
    Measure,
    Split,
    once_period_ms,
)
from recsys.features.spec import Floats, HistoryQuery, Ints, Match, Signal, Total, number
from recsys.features.windows import saturated

Array = NDArray[np.int64]
KIND = {kind: code for code, kind in enumerate(EventType)}  # how `EventColumns.kind` numbers the types
NO_BUCKET = BUCKETS  # pads rows of buckets
_LOOKS_AT = np.array(LOOKS_AT, np.int64)

_TIME_BITS = 42  # Unix milliseconds up to the year 2109; above them 2^20 keys
_MAX_KEYS = 1 << (62 - _TIME_BITS)


@dataclass(frozen=True)
class EventColumns:
    """The events of some users, or of some items, sorted by (key, time, event id), each event once.

    Arrays (n,). `key`: code of the user (item) that owns the event; `user`, `item`: codes of the event's; `value`: NaN
    where the event has none; `position`: -1 where it has none; `buckets`: split → (n, k), padded with `NO_BUCKET`.
    """

    key: Array
    time_ms: Array
    kind: NDArray[np.int8]
    value: NDArray[np.float64]
    position: Array
    attributed: NDArray[np.bool_]
    user: Array
    item: Array
    buckets: Mapping[Split, Array]

    def amounts(self, signal: Signal | Aggregate, hop_ms: int) -> tuple[Array, Array]:
        """(rows, amounts) of the events that count in tiles of `hop_ms`."""
        chosen = np.isin(self.kind, [KIND[t] for t in signal.types])
        if signal.attributed:
            chosen &= self.attributed
        if signal.measure in OF_VALUES:
            chosen &= ~np.isnan(self.value)
        if signal.min_value is not None:
            chosen &= self.value >= signal.min_value  # False for NaN
        rows = np.flatnonzero(chosen)
        if signal.once:
            rows = self._first_of_each_user(rows, once_period_ms(hop_ms))
        if signal.measure is Measure.ONE:
            return rows, np.ones(rows.size, np.int64)
        if signal.measure is Measure.TIME:
            return rows, self.time_ms[rows]
        if signal.measure is Measure.EXAMINED:
            return rows, _LOOKS_AT[np.clip(self.position[rows], 0, _LOOKS_AT.size - 1)]
        if signal.measure is Measure.LOG2:
            mantissas, exponents = np.frexp(1.0 + np.maximum(self.value[rows], 0.0))
            steps = np.searchsorted(LOG2_STEPS, 2 * mantissas, side="right") - 1
            return rows, (exponents.astype(np.int64) - 1) * LOG2_SCALE + steps
        # rint rounds halves to even, as Python's round does
        return rows, np.rint(self.value[rows] * signal.scale).clip(0, MAX_AMOUNT).astype(np.int64)

    def _first_of_each_user(self, rows: Array, period_ms: int) -> Array:
        pairs = np.stack((self.time_ms[rows] // period_ms, self.user[rows], self.key[rows]))
        order = np.lexsort(pairs)  # stable: the earliest of equal ones comes first
        first: Array = np.any(np.diff(pairs[:, order], axis=1, prepend=-1), axis=0)
        return rows[np.sort(order[first])]

    def cells(self, aggregate: Aggregate) -> tuple[Array, Array, Array, Array]:
        """(key, tile, bucket, amount) of every cell of an aggregate; -1 where the cell's name has no such part."""
        rows, amounts = self.amounts(aggregate, aggregate.hop_ms)
        buckets = np.full(rows.size, -1, np.int64)
        if aggregate.split is not Split.NONE:
            split = self.buckets[aggregate.split][rows]
            there = split.ravel() != NO_BUCKET
            rows, amounts = rows.repeat(split.shape[1])[there], amounts.repeat(split.shape[1])[there]
            buckets = split.ravel()[there]
        hop = aggregate.hop_ms
        tiles = self.time_ms[rows] // hop if hop else np.full(rows.size, -1, np.int64)
        order = np.lexsort((buckets, tiles, self.key[rows]))
        cells = np.stack((self.key[rows], tiles, buckets))[:, order]
        first = np.flatnonzero(np.any(np.diff(cells, axis=1, prepend=-2), axis=0))
        ends = np.append(first[1:], order.size)[: first.size]  # none for no events
        if aggregate.op is not Op.ADD:  # times, sorted within a key: events are
            place = ends - 1 if aggregate.op is Op.MAX else first
            return (*cells[:, first], amounts[order][place])
        sums = np.concatenate(([0], np.cumsum(amounts[order], dtype=np.int64)))
        return (*cells[:, first], np.minimum(sums[ends] - sums[first], MAX_SUM))


@dataclass(frozen=True)
class Queries:
    """The instants at which features are wanted. Arrays (q,); codes and buckets as in `EventColumns`.

    `key` is -1 for a user (item) without events. `attributes`: (entity, name) → (q,) texts, None where missing.
    """

    key: Array
    time_ms: Array
    item: Array
    buckets: Mapping[Split, Array]
    created_ms: Array
    attributes: Mapping[tuple[Entity, str], Sequence[str | None]]


class BatchSource:
    """`recsys.features.spec.Source` of many instants, for the totals of `entity`, whose events it has."""

    def __init__(self, entity: Entity, events: EventColumns, queries: Queries) -> None:
        self._entity = entity
        self._events = events
        self._queries = queries
        self._series: dict[tuple[Signal, Split, int], _Series] = {}
        self._visits: dict[tuple[str, Match], _Visits] = {}

    @property
    def now_ms(self) -> Ints:
        return self._queries.time_ms

    def total(self, total: Total) -> Ints:
        if total.entity is not self._entity:
            raise ValueError(f"{total.aggregate_name} belongs to the {total.entity}, not the {self._entity}")
        series, split, q = self._series_for(total), total.split, self._queries
        if split is Split.NONE:
            return saturated(series.total(total, q.key, q.time_ms))
        parts = [series.total(total, _pair(q.key, column), q.time_ms) for column in q.buckets[split].T]
        return saturated(np.sum(parts, axis=0, dtype=np.int64))

    def by_bucket(self, total: Total, queries: Queries) -> tuple[Array, Array, Array]:
        """A split total in every bucket that the query's key has events in: (row of the query, bucket, total), (m,)
        each."""
        events, split = self._events, total.split
        rows, _ = events.amounts(total.signal, total.window.hop_ms)
        pairs = np.unique(_pair(events.key[rows][:, None], events.buckets[split][rows]))
        pairs = pairs[pairs >= 0]
        first, end = (np.searchsorted(pairs, keys * BUCKETS) for keys in (queries.key, queries.key + 1))
        row, place = _spans(np.where(queries.key < 0, end, first), end)
        series = self._series_for(total)
        return row, pairs[place] % BUCKETS, series.total(total, pairs[place], queries.time_ms[row])

    def _series_for(self, total: Total) -> "_Series":
        signal, split = total.signal, total.split
        hop_ms = total.window.hop_ms if signal.once else 0  # others have one series for all tiles
        if (signal, split, hop_ms) not in self._series:
            self._series[signal, split, hop_ms] = self._series_of(signal, split, hop_ms)
        return self._series[signal, split, hop_ms]

    def _series_of(self, signal: Signal, split: Split, hop_ms: int) -> "_Series":
        events = self._events
        rows, amounts = events.amounts(signal, hop_ms)
        if split is Split.NONE:
            return _Series(events.key[rows], events.time_ms[rows], amounts)
        buckets = events.buckets[split][rows]
        rows, amounts = rows.repeat(buckets.shape[1]), amounts.repeat(buckets.shape[1])
        keys = _pair(events.key[rows], buckets.ravel())
        there = keys >= 0
        return _Series(keys[there], events.time_ms[rows[there]], amounts[there])

    def count(self, query: HistoryQuery) -> Ints:
        return self._matching(query).count(query.newest)

    def latest_ms(self, query: HistoryQuery) -> Ints:
        return self._matching(query).latest_ms(query.newest)

    def _matching(self, query: HistoryQuery) -> "_Visits":
        key = query.history.name, query.match
        if key not in self._visits:
            self._visits[key] = _Visits(self._events, self._queries, query.history, query.match)
        return self._visits[key]

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        texts = self._queries.attributes[entity, name]
        return np.array([number(text, default, vocabulary) for text in texts], np.float64)

    def categories(self) -> Ints:
        counts: Array = (self._queries.buckets[Split.CATEGORY] != NO_BUCKET).sum(axis=1, dtype=np.int64)
        return counts

    def created_ms(self) -> Ints:
        return self._queries.created_ms


class _Series:
    """Amounts by (key, time); gives totals as of (key, time) pairs."""

    def __init__(self, keys: Array, times: Array, amounts: Array) -> None:
        self._keys, codes = np.unique(keys, return_inverse=True)
        if self._keys.size >= _MAX_KEYS:
            raise ValueError(f"{self._keys.size} keys in one bucket: use more buckets")
        moments = codes << _TIME_BITS | times
        order = np.argsort(moments, kind="stable")
        self._moments = moments[order]
        self._sums = np.concatenate(([0], np.cumsum(amounts[order], dtype=np.int64)))

    def total(self, total: Total, keys: Array, times: Array) -> Array:
        """(q,) int64; 0 for a key without events."""
        if not self._keys.size:
            return np.zeros(keys.size, np.int64)
        codes = np.searchsorted(self._keys, keys)
        known = self._keys[np.minimum(codes, self._keys.size - 1)] == keys
        codes, times = codes[known], times[known]
        result = np.zeros(keys.size, np.int64)
        if total.signal.op is not Op.ADD:
            result[known] = self._extreme(total.signal.op, codes, times)
        elif total.window.half_life:
            result[known] = self._decayed(total, codes, times)
        else:
            result[known] = self._windowed(total, codes, times)
        return result

    def _at(self, codes: Array, times: Array) -> Array:
        """Where the first event of that key at or after that time would be."""
        return np.searchsorted(self._moments, codes << _TIME_BITS | times)

    def _windowed(self, total: Total, codes: Array, times: Array) -> Array:
        hop, tiles = total.window.hop_ms, total.window.tiles
        newest = times // hop if hop else np.zeros_like(times)
        start = np.maximum(newest - (tiles - 1), 0) * hop
        end = (newest - total.window.skip + 1) * hop if total.window.skip else times
        return self._sums[self._at(codes, end)] - self._sums[self._at(codes, start)]

    def _decayed(self, total: Total, codes: Array, times: Array) -> Array:
        """Events of the current tile, plus the weighted sums of at most `tiles` older ones per query."""
        hop, tiles, weights = total.window.hop_ms, total.window.tiles, total.window.weights
        tile_of = self._moments & ((1 << _TIME_BITS) - 1)
        stamps = self._moments >> _TIME_BITS << _TIME_BITS | tile_of // hop
        firsts = np.flatnonzero(np.diff(stamps, prepend=-1))
        tile_stamps = stamps[firsts]
        tile_sums = np.diff(self._sums[np.append(firsts, stamps.size)])

        newest = times // hop
        current = self._sums[self._at(codes, times)] - self._sums[self._at(codes, newest * hop)]
        asked: Array
        asked, back = np.unique(codes << _TIME_BITS | newest, return_inverse=True)
        oldest = np.maximum((asked & ((1 << _TIME_BITS) - 1)) - (tiles - 1), 0)
        first: Array = asked >> _TIME_BITS << _TIME_BITS | oldest
        query, tile = _spans(np.searchsorted(tile_stamps, first), np.searchsorted(tile_stamps, asked))
        weighted = weights[asked[query] - tile_stamps[tile]] * np.minimum(
            tile_sums[tile], total.window.largest
        )
        older = _sum_by(query, weighted, asked.size)
        result: Array = weights[0] * np.minimum(current, total.window.largest) + older[back]
        return result

    def _extreme(self, op: Op, codes: Array, times: Array) -> Array:
        """The latest (earliest) event time of the key before that time."""
        end, start = self._at(codes, times), self._at(codes, np.zeros_like(times))
        place = end - 1 if op is Op.MAX else start
        there = end > start
        moments = self._moments[np.where(there, place, 0)] & ((1 << _TIME_BITS) - 1)
        return np.where(there, moments, 0)


class _Visits:
    """The latest visits of each query's user as (query, visit) pairs, oldest first within a query."""

    def __init__(self, events: EventColumns, queries: Queries, history: History, match: Match) -> None:
        rows = np.flatnonzero(np.isin(events.kind, [KIND[t] for t in history.types]))
        self._times = events.time_ms[rows]
        self._size = queries.key.size
        starts, ends = spans_before(events.key[rows], self._times, queries.key, queries.time_ms, history.size)
        self._query, self._visit = _spans(starts, ends)
        self._age = ends[self._query] - 1 - self._visit  # 0: the newest
        if match is Match.ITEM:
            self._matches = events.item[rows][self._visit] == queries.item[self._query]
        elif match is Match.CATEGORY:
            theirs, mine = (side.buckets[Split.CATEGORY] for side in (events, queries))
            self._matches = _share_any(theirs[rows][self._visit], mine[self._query])
        else:
            self._matches = np.ones(self._visit.size, np.bool_)

    def count(self, newest: int) -> Array:
        chosen = self._matches & (self._age < newest)
        return np.bincount(self._query[chosen], minlength=self._size).astype(np.int64)

    def latest_ms(self, newest: int) -> Array:
        chosen = self._matches & (self._age < newest)
        result = np.zeros(self._size, np.int64)
        result[self._query[chosen]] = self._times[self._visit[chosen]]  # of several, the last one stays
        return result


def spans_before(
    keys: Array, times: Array, query_keys: Array, query_times: Array, size: int
) -> tuple[Array, Array]:
    """Per query, the span [start, end) of its key's latest `size` entries strictly before its time.

    `keys` and `times` are sorted by (key, time); a key must be below 2^20.
    """
    moments = keys << _TIME_BITS | times
    known = np.maximum(query_keys, 0)
    ends = np.searchsorted(moments, known << _TIME_BITS | query_times)
    starts = np.maximum(np.searchsorted(moments, known << _TIME_BITS), ends - size)
    return np.where(query_keys < 0, ends, starts), ends


def _pair(keys: Array, buckets: Array) -> Array:
    """One key of an owner and a bucket; -1 where either is missing."""
    return np.where((keys < 0) | (buckets == NO_BUCKET), -1, keys * BUCKETS + buckets)


def _spans(starts: Array, ends: Array) -> tuple[Array, Array]:
    """Every (i, j) with starts[i] ≤ j < ends[i], in order.

    >>> [pairs.tolist() for pairs in _spans(np.array([0, 5]), np.array([2, 6]))]
    [[0, 0, 1], [0, 1, 5]]
    """
    lengths = ends - starts
    owner = np.repeat(np.arange(lengths.size), lengths)
    first = np.cumsum(lengths) - lengths
    return owner, np.arange(owner.size) - first[owner] + starts[owner]


def _sum_by(owner: Array, values: Array, size: int) -> Array:
    """Exact integer sums of `values` by `owner`, which is sorted."""
    sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    ends = np.searchsorted(owner, np.arange(size), side="right")
    return np.diff(sums[ends], prepend=0)


def _share_any(left: Array, right: Array) -> NDArray[np.bool_]:
    """Whether rows of buckets have one in common: (n,) bool."""
    shared = np.zeros(left.shape[0], np.bool_)
    for column in left.T:
        shared |= ((column[:, None] == right) & (column != NO_BUCKET)[:, None]).any(axis=1)
    return shared
