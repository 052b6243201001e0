"""The item features of a whole catalogue as arrays in process: what serving reads instead of 500 keys per request.

A row is one item. Its feature values are computed from its cells, many rows at once, and cached until the item
changes or a tile ends: a stale value is never served. `values` computes the stale ones of its rows; `refresh` does so
ahead of the requests. Thread-safe.
"""

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from recsys.features.aggregates import (
    BUCKETS,
    CATEGORIES_PER_EVENT,
    Entity,
    bucket_of,
    category_buckets,
    creator_buckets,
)
from recsys.features.feature_set import FeatureSet
from recsys.features.item_layout import Cells, ItemLayout
from recsys.features.item_weights import ItemWeights, Weighing
from recsys.features.kinds import Attribute
from recsys.features.spec import Floats, HistoryQuery, Ints, Total, number

_NO_CELLS: Cells = b""
_STALE = np.iinfo(np.int64).min
_BATCH = 1_000  # items that are put at the same time while a table is read
_CHUNK = 2_000  # rows that `refresh` computes under one lock: a few milliseconds
NO_BUCKET = BUCKETS  # pads `categories` and `creators`; per-bucket vectors have 0 there


class ItemColumns:
    """Item features of `items`; row i is `items[i]`.

    Attributes: `categories` (n, 4) and `creators` (n, 1) int64, buckets padded with `NO_BUCKET`; `ids` (n,) int64, the
    bucket of each item's own id.
    """

    def __init__(
        self, items: Collection[Item], features: FeatureSet, weighing: Weighing | None = None
    ) -> None:
        """`weighing`: what an item's engagement is weighed by, after the first `weigh`; None: all of it counts."""
        self._weights = None if weighing is None else ItemWeights(weighing)
        self._rows: dict[str, int] = {}
        self._ids: list[str] = []  # by row
        self._n = 0
        self._attribute_features = [f for f in features.attributes if f.entity is Entity.ITEM]
        self._layout = ItemLayout(features, weighing.compared if weighing else ())
        self._lock = threading.Lock()
        self.categories = np.empty((0, CATEGORIES_PER_EVENT), np.int64)
        self.creators = np.empty((0, 1), np.int64)
        self.ids, self._created_ms, self._category_counts, self._stamps = np.empty((4, 0), np.int64)
        self._attributes = {key: np.empty(0) for key in map(_attribute_key, self._attribute_features)}
        self._cells: list[Cells] = []
        self._values = np.empty((0, len(self._layout.columns)), np.float32)
        self._totals = {t: np.empty(0, np.int64) for t in self._layout.ticking_totals}
        self._grow(len(items))
        left = iter(items)
        while some := list(islice(left, _BATCH)):
            self.put(range(self._n, self._n + len(some)), some)
        if len(self._rows) != len(items):
            raise ValueError("item ids must differ")

    def __len__(self) -> int:
        return self._n

    @property
    def catalogue(self) -> Self:
        """This object as `assemble.ItemSide`."""
        return self

    @property
    def runs(self) -> list[tuple[slice, slice]]:
        """`columns` as runs; see `feature_set.runs`."""
        return self._layout.runs

    @property
    def columns(self) -> NDArray[np.intp]:
        """Where the columns of `values` belong in a feature matrix. Ticking features are not among them."""
        return self._layout.columns

    @property
    def ticking_totals(self) -> tuple[Total, ...]:
        """The totals behind ticking features: what `total` knows."""
        return self._layout.ticking_totals

    @property
    def rows_by_id(self) -> dict[str, int]:
        """Item id → row. Do not change it."""
        return self._rows

    @property
    def category_counts(self) -> NDArray[np.int64]:
        """(≥ n,) int64: how many categories each row has."""
        return self._category_counts

    @property
    def created_ms(self) -> NDArray[np.int64]:
        """(≥ n,) int64 Unix milliseconds, 0 for unknown."""
        return self._created_ms

    def row(self, item_id: str) -> int:
        """The item's row; -1 for an item that is not in the catalogue."""
        return self._rows.get(item_id, -1)

    def rows(self, item_ids: Iterable[str]) -> NDArray[np.int32]:
        """`row` of each, (n,) int32."""
        return np.array([self._rows.get(item_id, -1) for item_id in item_ids], np.int32)

    def categories_of(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """(N, 4): of each row as `categories` has them; padding for a row that there is not."""
        there = rows < self._n
        return np.where(there[:, None], self.categories.take(np.where(there, rows, 0), axis=0), NO_BUCKET)

    def load(self, states: Iterable[tuple[str, EntityState]]) -> None:
        """`update` many items."""
        for item_id, state in states:
            self.update(item_id, state)

    def put(self, rows: Sequence[int], items: Sequence[Item]) -> None:
        """Add or replace items; their states stay. A new item gets the next row, or that of another item, whose state
        goes. Raises `ValueError`: a row beyond the next."""
        if not items:
            return
        with self._lock:
            n = self._n
            added = sorted({row for row in rows if row >= n})
            if added != list(range(n, n + len(added))):
                raise ValueError(f"new items get the rows from {n} on, without holes, got {added}")
            if (size := n + len(added)) > len(self._stamps):
                # an eighth more than is needed, so that adding one by one copies rarely
                self._grow(size + size // 8 + 64 - len(self._stamps))
            where = np.array(rows, np.int64)
            self.categories[where] = _padded(
                [category_buckets(i.categories) for i in items], CATEGORIES_PER_EVENT
            )
            self._category_counts[where] = (self.categories[where] != NO_BUCKET).sum(axis=1)
            self.creators[where] = _padded([creator_buckets(i.creator) for i in items], 1)
            self.ids[where] = [bucket_of(i.item_id) for i in items]
            self._created_ms[where] = [i.created_ms for i in items]
            for f in self._attribute_features:
                texts = (i.attributes.get(f.attribute) for i in items)
                self._attributes[_attribute_key(f)][where] = [
                    number(text, f.default, f.vocabulary) for text in texts
                ]
            self._stamps[where] = _STALE
            for row, item in zip(rows, items, strict=True):
                self._name(row, item.item_id)
            self._n += len(added)

    def _name(self, row: int, item_id: str) -> None:
        old = self._ids[row]
        if old != item_id:
            self._cells[row] = _NO_CELLS
            if self._rows.get(old) == row:
                del self._rows[old]
            self._ids[row] = item_id
            if self._weights is not None:
                self._weights.name(row, item_id)
        self._rows[item_id] = row

    def _grow(self, more: int) -> None:
        """Make room for more rows. Readers keep the arrays that they have."""
        self.categories = _longer(self.categories, more, NO_BUCKET)
        self.creators = _longer(self.creators, more, NO_BUCKET)
        self.ids = _longer(self.ids, more, NO_BUCKET)
        self._category_counts = _longer(self._category_counts, more, 0)
        self._created_ms = _longer(self._created_ms, more, 0)
        self._attributes = {key: _longer(column, more, 0) for key, column in self._attributes.items()}
        self._cells += [_NO_CELLS] * more
        self._ids += [""] * more
        self._values = _longer(self._values, more, 0)
        self._totals = {total: _longer(kept, more, 0) for total, kept in self._totals.items()}
        self._stamps = _longer(self._stamps, more, _STALE)
        if self._weights is not None:
            self._weights.grow(more)

    def update(self, item_id: str, state: EntityState) -> bool:
        """Replace one item's state. False: the item is not in the catalogue."""
        row = self._rows.get(item_id, -1)
        if row < 0:
            return False
        cells = self._layout.encode(state)
        with self._lock:
            self._cells[row] = cells
            self._stamps[row] = _STALE
        return True

    def weigh(self) -> None:
        """Compare every item with the whole catalogue as it was last computed. What that changes is stale then."""
        if self._weights is None:
            return
        with self._lock:
            counts, base = self._weights.copies()
        changed = self._weights.renew(counts, base)  # requests need not wait for it
        with self._lock:
            self._stamps[changed] = _STALE

    def refresh(self, now_ms: int) -> int:
        """Compute every stale row; how many there were. Other threads read meanwhile."""
        stale = np.flatnonzero(self._stamps[: self._n] != self._layout.period(now_ms))
        for start in range(0, stale.size, _CHUNK):
            with self._lock:
                self._compute(stale[start : start + _CHUNK], now_ms)
        return stale.size

    def values(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        """The item features of these rows as of `now_ms`: (N, len(columns)) float32."""
        with self._lock:
            self._compute_stale(rows, now_ms)
            return self._values.take(rows, axis=0)

    def column(self, place: int, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        """Column `place` of `values`, (N,) float32, without copying the others."""
        with self._lock:
            self._compute_stale(rows, now_ms)
            found: NDArray[np.float32] = self._values[rows, place]
        return found

    def total(self, total: Total, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """One of `ticking_totals`, (N,) int64; call `values` for these rows first."""
        with self._lock:
            return self._totals[total][rows]

    def counted_categories(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """How many categories each row has, (N,) int64."""
        counts: NDArray[np.int64] = self._category_counts[rows]
        return counts

    def created(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Unix milliseconds, 0 for unknown, (N,) int64."""
        created: NDArray[np.int64] = self._created_ms[rows]
        return created

    def attribute(self, name: str, default: float, vocabulary: tuple[str, ...]) -> NDArray[np.float64]:
        """(n,) float64."""
        return self._attributes[name, default, vocabulary]

    def _compute_stale(self, rows: NDArray[np.int32], now_ms: int) -> None:
        stale = rows[self._stamps[rows] != self._layout.period(now_ms)]
        if stale.size:
            self._compute(np.unique(stale), now_ms)

    def _compute(self, rows: NDArray[np.intp], now_ms: int) -> None:
        totals = self._layout.decode([self._cells[row] for row in rows], now_ms)
        if self._weights is not None:
            totals = self._weights.weighed(rows, totals)
        source = _ItemSource(self, rows, totals)
        outputs = chain.from_iterable(f.values(source) for f in self._layout.steady)
        for column, value in enumerate(outputs):
            self._values[rows, column] = value
        for total, kept in self._totals.items():
            kept[rows] = totals[total]
        self._stamps[rows] = self._layout.period(now_ms)


class _ItemSource:
    """`Source` of the cached item features: no user, no clock."""

    def __init__(
        self, columns: ItemColumns, rows: NDArray[np.intp], totals: Mapping[Total, NDArray[np.int64]]
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._totals = totals

    @property
    def now_ms(self) -> Ints:
        raise TypeError("a feature that reads the clock must be declared `ticking`")

    def total(self, total: Total) -> Ints:
        return self._totals[total]

    def count(self, query: HistoryQuery) -> Ints:
        raise TypeError("an item has no histories")

    def latest_ms(self, query: HistoryQuery) -> Ints:
        raise TypeError("an item has no histories")

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        return self._columns.attribute(name, default, vocabulary)[self._rows]

    def categories(self) -> Ints:
        return self._columns.counted_categories(self._rows)

    def created_ms(self) -> Ints:
        return self._columns.created(self._rows)


def _padded(lists: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    table = np.full((len(lists), width), NO_BUCKET, np.int64)
    for row, values in enumerate(lists):
        table[row, : len(values)] = values
    return table


def _longer(array: NDArray[Any], more: int, fill: int) -> NDArray[Any]:
    return np.concatenate([array, np.full((more, *array.shape[1:]), fill, array.dtype)])


def _attribute_key(feature: Attribute) -> tuple[str, float, tuple[str, ...]]:
    return feature.attribute, feature.default, feature.vocabulary
