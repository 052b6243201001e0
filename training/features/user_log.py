"""The sorted events of some users as arrays, and what follows what in them. Numpy and Arrow only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import ENGAGEMENT, EventType
from recsys.features.definitions import ENGAGED_VISITS
from recsys.features.visits import spans_before
from training.features.arrow_columns import KINDS, TIME

NEVER_MS = np.iinfo(np.int64).max


class UserLog:
    """Sorted rows as arrays, with codes for (user, item) and (user, item, request); -1: no request."""

    def __init__(self, rows: pa.Table) -> None:
        self.time = np.asarray(rows.column(TIME), np.int64)
        self.kind = np.asarray(pc.index_in(rows.column("type"), value_set=KINDS)).astype(np.int64)
        self.value = np.asarray(pc.fill_null(rows.column("value"), np.nan), np.float64)
        users, self._user_ids = _codes(rows.column("user_id"))
        items, self._item_ids = _codes(rows.column("item_id"))
        self.pair = users * len(self._item_ids) + items
        requests, _ = _codes(pc.fill_null(rows.column("request_id"), ""))
        named = np.asarray(pc.is_valid(rows.column("request_id")))
        self.request = np.where(named, requests * (self.pair.max(initial=0) + 1) + self.pair, -1)

    def next_engaged_ms(
        self, users: pa.ChunkedArray, items: list[str], since_ms: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Time of each pair's first engagement from `since_ms` on; far in the future if there is none."""
        user = np.asarray(pc.index_in(users, value_set=self._user_ids), np.int64)
        item = pc.fill_null(pc.index_in(pa.array(items, pa.string()), value_set=self._item_ids), -1)
        asked = user * len(self._item_ids) + np.asarray(item, np.int64)
        engaged = np.flatnonzero(any_of(self.kind, ENGAGEMENT))
        pairs, code = np.unique(self.pair[engaged], return_inverse=True)
        times, rank = np.unique(
            self.time[engaged], return_inverse=True
        )  # ranks leave room for any number of pairs
        ranks = times.size + 1
        moments = np.sort(code * ranks + rank)
        place = np.searchsorted(pairs, asked)
        known = (np.asarray(item) >= 0) & (np.append(pairs, -1)[place] == asked)
        since = place * ranks + np.searchsorted(times, since_ms)
        following = np.append(moments, -1)[np.searchsorted(moments, since)]
        found = known & (following // ranks == place)
        return np.where(found, np.append(times, NEVER_MS)[following % ranks], NEVER_MS)

    def earlier_items(
        self, users: pa.ChunkedArray, times: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> list[str | None]:
        """Draws from each user's latest engagements before the time: (n, k) in [0, 1) → n · k ids, None without any."""
        engaged = np.flatnonzero(any_of(self.kind, ENGAGEMENT))
        user = np.asarray(pc.index_in(users, value_set=self._user_ids), np.int64)
        owners, items = np.divmod(self.pair[engaged], len(self._item_ids))
        starts, ends = spans_before(owners, self.time[engaged], user, times, ENGAGED_VISITS.size)
        drawn = starts[:, None] + (uniform * (ends - starts)[:, None]).astype(np.int64)
        there = np.repeat(ends > starts, uniform.shape[1])
        ids = pa.array(
            np.where(there, np.append(items, 0)[np.minimum(drawn.ravel(), items.size)], 0), mask=~there
        )
        found: list[str | None] = self._item_ids.take(ids).to_pylist()
        return found

    def owner(
        self, shown: NDArray[np.intp], outcome: NDArray[np.intp], code: NDArray[np.int64], window_ms: int
    ) -> NDArray[np.int64]:
        """For each outcome, the place in `shown` of the latest one with its code within the window before it, or -1."""
        if not shown.size or not outcome.size:
            return np.full(outcome.size, -1, np.int64)
        order = np.lexsort((self.time[shown], code[shown]))
        codes, times = code[shown][order], self.time[shown][order]
        # one sort over both finds each outcome's last shown row that is not after it
        both = np.concatenate((codes, code[outcome])), np.concatenate((times, self.time[outcome]))
        kind = np.concatenate((np.zeros(codes.size, np.int8), np.ones(outcome.size, np.int8)))
        merged = np.lexsort((kind, both[1], both[0]))
        seen = np.cumsum(kind[merged] == 0) - 1
        last = np.empty(outcome.size, np.int64)
        is_outcome = kind[merged] == 1
        last[merged[is_outcome] - codes.size] = seen[is_outcome]
        place = np.maximum(last, 0)
        gap = self.time[outcome] - times[place]
        fits = (last >= 0) & (codes[place] == code[outcome]) & (code[outcome] >= 0) & (gap <= window_ms)
        return np.where(fits, order[place], -1)

    def first_of_each(self, rows: NDArray[np.intp], window_ms: int) -> NDArray[np.intp]:
        """The first of those events of a pair that follow one another within the window."""
        order = rows[np.lexsort((np.arange(rows.size), self.time[rows], self.pair[rows]))]
        new = np.ones(order.size, bool)
        same = self.pair[order][1:] == self.pair[order][:-1]
        new[1:] = ~same | (np.diff(self.time[order]) > window_ms)
        return np.sort(order[new])


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices, np.int64), encoded.dictionary


def any_of(kinds: NDArray[np.int64], wanted: frozenset[EventType]) -> NDArray[np.bool_]:
    """Which of the codes in `UserLog.kind` are of these types."""
    return np.isin(kinds, [code_of(kind) for kind in wanted])


def code_of(kind: EventType) -> int:
    return tuple(EventType).index(kind)
