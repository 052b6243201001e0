"""Serving's read: one user and N candidates to one (N, D) float32 matrix.

The user's few hundred cells are read as Python integers (faster than arrays of one), the item side is gathered
from `ItemColumns`, and only what depends on both is computed for each candidate.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.features.spec import MAX_LOOK, Feature, Floats, Ints, Look, Match, Total, number
from recsys.features.state import (
    BUCKETS,
    Entity,
    EntityState,
    Split,
    Visit,
    category_buckets,
    parse_cell,
)


def assemble(
    features: FeatureSet,
    user: EntityState,
    user_attributes: Mapping[str, str],
    columns: ItemColumns,
    rows: NDArray[np.int32],
    now_ms: int,
    context: Mapping[str, str],
) -> NDArray[np.float32]:
    """The features of one user and the items in `rows`, as of `now_ms`.

    Args:
        user: as the store has it; empty for an unknown user.
        user_attributes: static attributes by name.
        columns: the catalogue; made with the same `features`.
        rows: (N,) int32, rows of `columns`.
        context: of the request, such as `tab`.

    Returns:
        (N, D) float32 in `features.names` order; every value is finite.
    """
    plan = _plan(features)
    matrix = np.empty((len(rows), features.dimension), np.float32)
    matrix[:, columns.columns] = columns.values(rows, now_ms)
    source = _RequestSource(user, user_attributes, columns, rows, now_ms, context)
    matrix[:, plan.shared_columns] = [v for f in plan.shared for v in f.values(source)]
    paired = chain.from_iterable(f.values(source) for f in plan.paired)
    for column, value in zip(plan.paired_columns, paired, strict=True):
        matrix[:, column] = value
    return matrix


class _Plan(NamedTuple):
    """`shared`: one value a request (user, context). `paired`: one a candidate, not cached with the item."""

    shared: tuple[Feature, ...]
    shared_columns: NDArray[np.intp]
    paired: tuple[Feature, ...]
    paired_columns: list[int]


@lru_cache(maxsize=8)
def _plan(features: FeatureSet) -> _Plan:
    shared, shared_columns = features.placed(lambda f: f.entity in (Entity.USER, Entity.CONTEXT))
    paired, paired_columns = features.placed(
        lambda f: f.entity is Entity.USER_ITEM or (f.entity is Entity.ITEM and f.ticking)
    )
    return _Plan(shared, shared_columns, paired, paired_columns.tolist())


class _RequestSource:
    """`Source` of one request: numbers for the user, arrays (N,) for what depends on the candidate."""

    def __init__(
        self,
        user: EntityState,
        user_attributes: Mapping[str, str],
        columns: ItemColumns,
        rows: NDArray[np.int32],
        now_ms: int,
        context: Mapping[str, str],
    ) -> None:
        self.now_ms: Ints = now_ms
        self._now = now_ms
        self._attributes = {Entity.USER: user_attributes, Entity.CONTEXT: context}
        self._columns = columns
        self._rows = rows
        # (4, N) and (1, N): a loop over few rows of many is quicker than a reduction of many short rows
        self._buckets = {
            Split.CATEGORY: np.ascontiguousarray(columns.categories[rows].T),
            Split.CREATOR: np.ascontiguousarray(columns.creators[rows].T),
        }
        self._visits = {name: visits[-MAX_LOOK:] for name, visits in user.histories.items()}
        self._cells: dict[str, list[tuple[int, int, int]]] = defaultdict(list)  # tile, bucket, amount
        for cell, amount in user.cells.items():
            name, tile, bucket = parse_cell(cell)
            self._cells[name].append((tile, bucket, amount))
        self._totals: dict[Total, Ints] = {}
        self._masks: dict[tuple[str, Match], Ints] = {}

    def total(self, total: Total) -> Ints:
        found = self._totals.get(total)
        if found is None:
            found = self._totals[total] = self._read(total)
        return found

    def _read(self, total: Total) -> Ints:
        if total.entity is Entity.ITEM:
            return self._columns.total(total, self._rows)
        cells = self._cells.get(total.aggregate_name, ())
        window = total.window
        if not window.hop_ms and total.split is Split.NONE:
            return cells[0][2] if cells else 0
        newest = self._now // window.hop_ms if window.hop_ms else -1
        weights, tiles = window.weight_list, window.tiles
        if total.split is Split.NONE:
            return sum(weights[newest - tile] * n for tile, _, n in cells if 0 <= newest - tile < tiles)
        table = np.zeros(BUCKETS + 1, np.int64)
        by_bucket: dict[int, int] = {}
        for tile, bucket, amount in cells:
            if 0 <= newest - tile < tiles:
                by_bucket[bucket] = by_bucket.get(bucket, 0) + weights[newest - tile] * amount
        table[list(by_bucket)] = list(by_bucket.values())
        return _added(table[self._buckets[total.split]])

    def count(self, look: Look) -> Ints:
        mask = self._matching(look)
        if isinstance(mask, int):
            return mask.bit_count()
        return np.bitwise_count(mask).astype(np.int64)

    def latest_ms(self, look: Look) -> Ints:
        times = [0, *(visit[0] for visit in self._visits.get(look.history.name, ()))]
        mask = self._matching(look)
        if isinstance(mask, int):
            return times[mask.bit_length()]
        # the exponent of a mask as a float is the number of its highest bit, from 1
        return np.array(times, np.int64)[np.frexp(mask)[1]]

    def _matching(self, look: Look) -> Ints:
        """Bit i: the i-th of the latest visits matches and is among the newest that the look takes."""
        key = look.history.name, look.match
        visits = self._visits.get(look.history.name, [])
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self._mask(visits, look.match)
        older = len(visits) - look.newest
        return mask >> older << older if older > 0 else mask

    def _mask(self, visits: list[Visit], match: Match) -> Ints:
        if match is Match.ANY:
            return (1 << len(visits)) - 1
        bits: dict[int, int] = {}
        if match is Match.CATEGORY:
            for i, visit in enumerate(visits):
                for bucket in category_buckets(visit.categories):
                    bits[bucket] = bits.get(bucket, 0) | 1 << i
            table = np.zeros(BUCKETS + 1, np.int64)
            table[list(bits)] = list(bits.values())
            found = table[self._buckets[Split.CATEGORY]]
            return np.asarray(np.bitwise_or.reduce(found, axis=0), np.int64)
        for i, visit in enumerate(visits):
            row = self._columns.row(visit.item_id)
            bits[row] = bits.get(row, 0) | 1 << i
        return _lookup(bits, self._rows)

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        return number(self._attributes[entity].get(name), default, vocabulary)

    def categories(self) -> Ints:
        return self._columns.counted_categories(self._rows)

    def created_ms(self) -> Ints:
        return self._columns.created(self._rows)


def _added(parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of the rows, (N,) int64."""
    total: NDArray[np.int64] = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _lookup(table: Mapping[int, int], keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """`table[key]` for each key, 0 for those it lacks."""
    known = np.array(sorted(table), np.int64)
    values = np.array([table[k] for k in known.tolist()] + [0], np.int64)
    place = np.searchsorted(known, keys)
    found = np.append(known, -2)[place] == keys
    return np.where(found, values[place], 0)
