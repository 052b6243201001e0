"""All totals of one user at once: serving's counterpart of `item_columns` for the user of a request.

A user has a few hundred cells, of which each enters a few totals. Taken apart into arrays once, all of them together
are a handful of array operations; a loop in Python would cost as much as everything else of a request's features.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys.features.feature_set import FeatureSet
from recsys.features.spec import Ints, Total
from recsys.features.state import BUCKETS, Entity, Split, parse_cell

Ints64 = NDArray[np.int64]

_BUCKET_BITS = 13  # a bucket, or `BUCKETS` for none
_TILE_BITS = 40
_CACHED_CELLS = 1 << 16  # the users of a day share most names


class UserTotals:
    """How the cells of a user become the totals that a feature set reads of users. Thread-safe."""

    def __init__(self, features: FeatureSet) -> None:
        aggregates = [a.name for a in features.aggregates if a.entity is Entity.USER]
        self._numbers = {name: number for number, name in enumerate(aggregates)}
        totals = [t for t in features.totals if t.entity is Entity.USER]
        totals.sort(
            key=lambda t: self._numbers[t.aggregate_name]
        )  # those that read one cell follow each other
        self._plain = [t for t in totals if t.split is Split.NONE]
        self._split = {split: [t for t in totals if t.split is split] for split in Split if split}

        reads = [sum(t.aggregate_name == name for t in totals) for name in aggregates]
        self._reads = np.array([*reads, 0])  # by number of the aggregate; the last: cells of nobody
        self._first = np.cumsum([0, *reads])
        self._hop = np.array([t.window.hop_ms for t in totals])
        self._tiles = np.array([t.window.tiles for t in totals])
        weights = [t.window.weights for t in totals]
        self._weights = np.concatenate([*weights, np.zeros(0, np.int64)])
        self._weights_at = np.cumsum([0, *map(len, weights)])

        # where the sums go: the plain ones first, then a table (buckets, totals) a split
        self._base, self._stride = np.zeros(len(totals), np.int64), np.zeros(len(totals), np.int64)
        self._tables: dict[Split, slice] = {}
        end = len(self._plain)
        place = {total: n for n, total in enumerate(totals)}
        self._base[[place[t] for t in self._plain]] = np.arange(end)
        for split, members in self._split.items():
            at = [place[t] for t in members]
            self._base[at] = end + np.arange(len(members))
            self._stride[at] = len(members)
            self._tables[split] = slice(end, end + (BUCKETS + 1) * len(members))
            end = self._tables[split].stop
        self._size = end
        self._code = lru_cache(_CACHED_CELLS)(self._encode)

    def read(
        self, cells: Mapping[str, int], now_ms: int, buckets: Mapping[Split, Ints64]
    ) -> dict[Total, Ints]:
        """Every total as of `now_ms`: an integer, or for a split one for each candidate, (N,) int64.

        Args:
            cells: the user's; those of other feature sets are left out.
            buckets: (k, N) int64 for each split: those of the candidates, padded with `BUCKETS`.
        """
        sums = self._sums(cells, now_ms)
        found: dict[Total, Ints] = dict(zip(self._plain, sums[: len(self._plain)].tolist(), strict=True))
        for split, members in self._split.items():
            if members:
                table = sums[self._tables[split]].reshape(BUCKETS + 1, len(members))
                by_candidate = table.take(buckets[split], axis=0).sum(axis=0)
                found.update(zip(members, np.ascontiguousarray(by_candidate.T), strict=True))
        return found

    def _sums(self, cells: Mapping[str, int], now_ms: int) -> Ints64:
        n = len(cells)
        codes = np.fromiter(map(self._code, cells), np.int64, n)
        amounts = np.fromiter(cells.values(), np.int64, n)
        aggregate = codes >> (_TILE_BITS + _BUCKET_BITS)
        tile = codes >> _BUCKET_BITS & ((1 << _TILE_BITS) - 1)
        bucket = codes & ((1 << _BUCKET_BITS) - 1)
        # one entry for each pair of a cell and a total that reads it
        reads = self._reads[aggregate]
        cell = np.repeat(np.arange(n), reads)
        nth = np.arange(len(cell)) - (np.cumsum(reads) - reads)[cell]
        total = self._first[aggregate[cell]] + nth
        age = (now_ms // np.maximum(self._hop, 1) * (self._hop > 0))[total] - tile[cell]
        inside = (age >= 0) & (age < self._tiles[total])
        cell, total, age = cell[inside], total[inside], age[inside]
        sums = np.zeros(self._size, np.int64)
        np.add.at(
            sums,
            self._base[total] + self._stride[total] * bucket[cell],
            self._weights[self._weights_at[total] + age] * amounts[cell],
        )
        return sums

    def _encode(self, cell: str) -> int:
        name, tile, bucket = parse_cell(cell)
        number = self._numbers.get(name, len(self._numbers))
        bucket = bucket if bucket >= 0 else BUCKETS
        return (number << _TILE_BITS | max(tile, 0)) << _BUCKET_BITS | bucket
