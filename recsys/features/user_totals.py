"""All totals of one user at once: the counterpart of `item_columns` for the user of a request.

A user has a few hundred cells, each of which enters a few totals. As arrays they take a handful of operations; a loop
in Python would cost as much as all other features of a request.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from recsys.features.aggregates import BUCKETS, Entity, Split
from recsys.features.cells import CellCoding, Ints64, aggregates_of, buckets_of, tiles_of
from recsys.features.feature_set import FeatureSet
from recsys.features.spec import Ints, Total
from recsys.features.windows import saturated


class Plan(NamedTuple):
    """Where the sums of all totals go: first the plain totals, then a table (buckets, totals) per split.

    totals: by aggregate, of each total: hop, tiles, the most that a tile counts, the place of its first sum, distance
        between the sums of two buckets, weights by age.
    plain: place of each total without a split.
    members: split → number in the table of each total; a table starts at `bases`.
    """

    totals: list[list[tuple[int, int, int, int, int, list[int]]]]
    size: int
    plain: Mapping[Total, int]
    members: Mapping[Split, Mapping[Total, int]]
    bases: Mapping[Split, int]


class UserTotals:
    """Computes from a user's cells the totals that a feature set reads. Thread-safe."""

    def __init__(self, features: FeatureSet) -> None:
        self._coding = CellCoding(features.aggregates, Entity.USER)
        aggregates = [a.name for a in self._coding.aggregates]
        totals = [t for t in features.totals if t.entity is Entity.USER]
        # the totals of one aggregate are consecutive
        totals.sort(key=lambda t: aggregates.index(t.aggregate_name))
        self._plain = [t for t in totals if t.split is Split.NONE]
        self._split = {split: [t for t in totals if t.split is split] for split in Split if split}

        reads = [sum(t.aggregate_name == name for t in totals) for name in aggregates]
        self._reads = np.array([*reads, 0], np.int64)  # by aggregate; the last: cells of other feature sets
        self._first = np.cumsum([0, *reads], dtype=np.int64)
        self._hop = np.array([t.window.hop_ms for t in totals], np.int64)
        self._tiles = np.array([t.window.tiles for t in totals], np.int64)
        self._largest = np.array([t.window.largest for t in totals], np.int64)
        weights = [t.window.weights for t in totals]
        self._weights = np.concatenate([*weights, np.zeros(0, np.int64)])
        self._weights_at = np.cumsum([0, *map(len, weights)], dtype=np.int64)

        # where the sums go: first the plain totals, then a table (buckets, totals) per split
        self._base, self._stride = np.zeros(len(totals), np.int64), np.zeros(len(totals), np.int64)
        self._tables: dict[Split, slice] = {}
        end = len(self._plain)
        place = {total: n for n, total in enumerate(totals)}
        self._base[np.array([place[t] for t in self._plain], np.int64)] = np.arange(end)
        for split, members in self._split.items():
            at = np.array([place[t] for t in members], np.int64)
            self._base[at] = end + np.arange(len(members))
            self._stride[at] = len(members)
            self._tables[split] = slice(end, end + (BUCKETS + 1) * len(members))
            end = self._tables[split].stop
        self._size = end
        self._all = totals

    def plan(self) -> Plan:
        """The same for the compiled code (`recsys.features.compile`)."""
        each = [
            (t.window.hop_ms, t.window.tiles, t.window.largest, base, stride, t.window.weights.tolist())
            for t, base, stride in zip(self._all, self._base.tolist(), self._stride.tolist(), strict=True)
        ]
        ends = zip(self._first.tolist(), self._first[1:].tolist(), strict=False)
        return Plan(
            [each[first:end] for first, end in ends],
            self._size,
            {total: n for n, total in enumerate(self._plain)},
            {split: {total: n for n, total in enumerate(of)} for split, of in self._split.items()},
            {split: self._tables[split].start for split in self._split},
        )

    @property
    def coding(self) -> CellCoding:
        """Of the cells that are read."""
        return self._coding

    def read(
        self, cells: Mapping[str, int], now_ms: int, buckets: Mapping[Split, Ints64]
    ) -> dict[Total, Ints]:
        """Every total as of `now_ms`: an integer, or with a split one per candidate, (N,) int64.

        Args:
            cells: of the user; those of other feature sets are ignored.
            buckets: split → (k, N) int64 of the candidates, padded with `BUCKETS`.
        """
        sums = self._sums(cells, now_ms)
        found: dict[Total, Ints] = dict(
            zip(self._plain, saturated(sums[: len(self._plain)]).tolist(), strict=True)
        )
        for split, members in self._split.items():
            if members:
                table = sums[self._tables[split]].reshape(BUCKETS + 1, len(members))
                by_candidate = saturated(table.take(buckets[split], axis=0).sum(axis=0))
                found.update(zip(members, np.ascontiguousarray(by_candidate.T), strict=True))
        return found

    def _sums(self, cells: Mapping[str, int], now_ms: int) -> Ints64:
        codes, amounts = self._coding.pack(cells)
        aggregate, tile, bucket = aggregates_of(codes), tiles_of(codes), buckets_of(codes)
        # one entry per pair of a cell and a total that reads it
        reads = self._reads[aggregate]
        cell = np.repeat(np.arange(len(codes)), reads)
        nth = np.arange(len(cell)) - (np.cumsum(reads) - reads)[cell]
        total = self._first[aggregate[cell]] + nth
        age = (now_ms // np.maximum(self._hop, 1) * (self._hop > 0))[total] - tile[cell]
        inside = (age >= 0) & (age < self._tiles[total])
        cell, total, age = cell[inside], total[inside], age[inside]
        sums = np.zeros(self._size, np.int64)
        np.add.at(
            sums,
            self._base[total] + self._stride[total] * bucket[cell],
            self._weights[self._weights_at[total] + age] * np.minimum(amounts[cell], self._largest[total]),
        )
        return sums
