"""Features of many instants from sorted events: the batch kernel, which Spark runs on each bucket of keys.

The stream adds to cells and a reader sums tiles; this kernel gets the same integers by cumulative sums and binary
search. `BatchSource(entity, events, queries)` is a `Source` whose arrays have one entry per query. Numpy only, so it
runs unchanged in a Spark executor, in a test and in a notebook.
"""

import numpy as np

from recsys.contracts.state import Op
from recsys.features.aggregates import BUCKETS, Entity, Split
from recsys.features.event_columns import NO_BUCKET, TIME_BITS, Array, EventColumns, Queries
from recsys.features.spec import Floats, HistoryQuery, Ints, Match, Signal, Total, number
from recsys.features.visits import AllVisits, MatchingVisits, Past
from recsys.features.windows import saturated

_MAX_KEYS = 1 << (62 - TIME_BITS)


class BatchSource:
    """`recsys.features.spec.Source` of many instants, for the totals of `entity`, whose events it has."""

    def __init__(self, entity: Entity, events: EventColumns, queries: Queries) -> None:
        self._entity = entity
        self._events = events
        self._queries = queries
        self._series: dict[tuple[Signal, Split, int], _Series] = {}
        self._pasts: dict[str, Past] = {}
        self._visits: dict[tuple[str, Match], AllVisits | MatchingVisits] = {}

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

    def _matching(self, query: HistoryQuery) -> AllVisits | MatchingVisits:
        history, match = query.history, query.match
        if history.name not in self._pasts:
            self._pasts[history.name] = Past(self._events, self._queries, history)
        if (history.name, match) not in self._visits:
            past = self._pasts[history.name]
            self._visits[history.name, match] = (
                AllVisits(past)
                if match is Match.ANY
                else MatchingVisits(past, self._events, self._queries, match)
            )
        return self._visits[history.name, match]

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        texts = self._queries.attributes[entity, name]
        numbers = {text: number(text, default, vocabulary) for text in set(texts)}  # there are few texts
        return np.fromiter(map(numbers.__getitem__, texts), np.float64, len(texts))

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
        moments = codes << TIME_BITS | times
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
        return np.searchsorted(self._moments, codes << TIME_BITS | times)

    def _windowed(self, total: Total, codes: Array, times: Array) -> Array:
        hop, tiles = total.window.hop_ms, total.window.tiles
        newest = times // hop if hop else np.zeros_like(times)
        start = np.maximum(newest - (tiles - 1), 0) * hop
        end = (newest - total.window.skip + 1) * hop if total.window.skip else times
        return self._sums[self._at(codes, end)] - self._sums[self._at(codes, start)]

    def _decayed(self, total: Total, codes: Array, times: Array) -> Array:
        """Events of the current tile, plus the weighted sums of at most `tiles` older ones per query."""
        hop, tiles, weights = total.window.hop_ms, total.window.tiles, total.window.weights
        tile_of = self._moments & ((1 << TIME_BITS) - 1)
        stamps = self._moments >> TIME_BITS << TIME_BITS | tile_of // hop
        firsts = np.flatnonzero(np.diff(stamps, prepend=-1))
        tile_stamps = stamps[firsts]
        tile_sums = np.diff(self._sums[np.append(firsts, stamps.size)])

        newest = times // hop
        current = self._sums[self._at(codes, times)] - self._sums[self._at(codes, newest * hop)]
        asked: Array
        asked, back = np.unique(codes << TIME_BITS | newest, return_inverse=True)
        oldest = np.maximum((asked & ((1 << TIME_BITS) - 1)) - (tiles - 1), 0)
        first: Array = asked >> TIME_BITS << TIME_BITS | oldest
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
        moments = self._moments[np.where(there, place, 0)] & ((1 << TIME_BITS) - 1)
        return np.where(there, moments, 0)


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
