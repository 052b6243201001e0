"""What a user did in every category, not only in the candidates': the input of the taste model.

A tally has one row per category bucket in which the user has looked at or clicked something, the buckets ascending. Its
integers are those of `Total`s that are split by category, so stream, batch and reference agree on them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import EntityState
from recsys.features.aggregates import Entity
from recsys.features.batch import BatchSource
from recsys.features.cells import CellCoding, aggregates_of, buckets_of, tiles_of
from recsys.features.event_columns import Queries
from recsys.features.feature_set import FeatureSet
from recsys.features.windows import saturated

Ints64 = NDArray[np.int64]


class Tally(NamedTuple):
    """Of one user, or of the user of each of q rows: then row i has the entries `bounds[i]` … `bounds[i + 1]`.

    buckets: (m,) int64, ascending within a row. amounts: (m, T) int64, of each of the T totals.
    """

    bounds: Ints64
    buckets: Ints64
    amounts: Ints64


class TallyReader:
    """Reads the tally of a feature set from a user's cells. Thread-safe."""

    def __init__(self, features: FeatureSet) -> None:
        self._totals = features.tallied
        self._coding = CellCoding(features.aggregates, Entity.USER)
        names = [aggregate.name for aggregate in self._coding.aggregates]
        self._numbers = [names.index(total.aggregate_name) for total in self._totals]

    def read(self, user: EntityState, now_ms: int) -> Tally:
        """As of `now_ms`."""
        codes, amounts = self._coding.pack(user.cells)
        aggregates, found = aggregates_of(codes), []
        for total, number in zip(self._totals, self._numbers, strict=True):
            mine = np.flatnonzero(aggregates == number)
            window, of = total.window, codes[mine]
            age = now_ms // window.hop_ms - tiles_of(of)
            inside = (age >= 0) & (age < window.tiles)
            weighted = window.weights[age[inside]] * np.minimum(amounts[mine][inside], window.largest)
            found.append((buckets_of(of)[inside], weighted))
        return _merged([np.zeros(len(buckets), np.int64) for buckets, _ in found], found, 1)


def batch_tally(features: FeatureSet, source: BatchSource, queries: Queries) -> Tally:
    """The tallies of many instants, one row per query."""
    rows, found = [], []
    for total in features.tallied:
        row, bucket, amount = source.by_bucket(total, queries)
        rows.append(row)
        found.append((bucket, amount))
    return _merged(rows, found, len(queries.key))


def _merged(rows: list[Ints64], found: list[tuple[Ints64, Ints64]], n: int) -> Tally:
    """Sums by row and bucket; entries that are 0 in all totals are left out."""
    row, bucket = np.concatenate(rows), np.concatenate([buckets for buckets, _ in found])
    size = int(bucket.max(initial=0)) + 1
    keys, place = np.unique(row * size + bucket, return_inverse=True)
    amounts = np.zeros((keys.size, len(found)), np.int64)
    end = 0
    for total, (_, values) in enumerate(found):
        start, end = end, end + len(values)
        np.add.at(amounts[:, total], place[start:end], values)
    kept = amounts.any(axis=1)
    keys, amounts = keys[kept], saturated(amounts[kept])
    return Tally(np.searchsorted(keys, np.arange(n + 1) * size), keys % size, amounts)
