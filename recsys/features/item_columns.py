"""The items of a whole catalogue as arrays in process: what serving reads instead of 500 keys a request.

A row is one item. Its cells are kept as two short arrays; feature values are computed from them, many rows at
once, and cached until the item changes or a tile ends: an old value is never served. `values` computes what is stale
among the rows asked for, `refresh` does it ahead of the requests. Thread-safe.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.feature_set import FeatureSet
from recsys.features.kinds import Attribute
from recsys.features.spec import Feature, Floats, Ints, Look, Total, number
from recsys.features.state import (
    BUCKETS,
    CATEGORIES_PER_EVENT,
    Aggregate,
    Entity,
    EntityState,
    category_buckets,
    creator_buckets,
    parse_cell,
)
from recsys.types import MS_PER_DAY, Item

Cells = NDArray[np.int64]  # (2, k): aggregate number << _TILE_BITS | tile; amount

_TILE_BITS = 40
_STALE = np.iinfo(np.int64).min
_CHUNK = 2_000  # rows that `refresh` computes under one lock: a few milliseconds
NO_BUCKET = BUCKETS  # pads `categories` and `creators`; per-bucket vectors have 0 there


class ItemColumns:
    """Item features of `items`; row i is `items[i]`.

    Attributes: `categories` (n, 4) and `creators` (n, 1) int64, buckets padded with `NO_BUCKET`.
    """

    def __init__(self, items: Sequence[Item], features: FeatureSet) -> None:
        self._rows = {item.item_id: row for row, item in enumerate(items)}
        if len(self._rows) != len(items):
            raise ValueError("item ids must differ")
        n = len(items)
        self.categories = _padded([category_buckets(i.categories) for i in items], CATEGORIES_PER_EVENT)
        self._category_counts = (self.categories != NO_BUCKET).sum(axis=1, dtype=np.int64)
        self.creators = _padded([creator_buckets(i.creator) for i in items], 1)
        self._created_ms = np.fromiter((i.created_ms for i in items), np.int64, n)
        self._attributes = _attribute_columns(items, features.features)
        self._layout = _Layout(features)
        self._lock = threading.Lock()
        self._cells: list[Cells] = [np.empty((2, 0), np.int64)] * n
        self._stamps = np.full(n, _STALE)
        self._values = np.empty((n, len(self._layout.columns)), np.float32)
        self._totals = {t: np.zeros(n, np.int64) for t in self._layout.ticking_totals}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> NDArray[np.intp]:
        """Where the columns of `values` belong in a feature matrix. Features that tick are not among them."""
        return self._layout.columns

    def row(self, item_id: str) -> int:
        """The item's row; -1 for an item that is not in the catalogue."""
        return self._rows.get(item_id, -1)

    def load(self, states: Iterable[tuple[str, EntityState]]) -> None:
        """Take over the states of many items."""
        for item_id, state in states:
            self.update(item_id, state)

    def update(self, item_id: str, state: EntityState) -> bool:
        """Take over one item's new state. False: the item is not in the catalogue."""
        row = self._rows.get(item_id, -1)
        if row < 0:
            return False
        cells = self._layout.encode(state)
        with self._lock:
            self._cells[row] = cells
            self._stamps[row] = _STALE
        return True

    def refresh(self, now_ms: int) -> int:
        """Compute every stale row; how many there were. Other threads read meanwhile."""
        stale = np.flatnonzero(self._stamps != self._layout.period(now_ms))
        for start in range(0, stale.size, _CHUNK):
            with self._lock:
                self._compute(stale[start : start + _CHUNK], now_ms)
        return stale.size

    def values(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        """The item features of these rows as of `now_ms`: (N, len(columns)) float32."""
        with self._lock:
            stale = rows[self._stamps[rows] != self._layout.period(now_ms)]
            if stale.size:
                self._compute(np.unique(stale), now_ms)
            return self._values[rows]

    def total(self, total: Total, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """The integers of a feature that ticks, (N,) int64; call `values` for these rows first."""
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

    def _compute(self, rows: NDArray[np.intp], now_ms: int) -> None:
        totals = self._layout.decode([self._cells[row] for row in rows], now_ms)
        source = _ItemSource(self, rows, totals)
        outputs = chain.from_iterable(f.values(source) for f in self._layout.steady)
        for column, value in enumerate(outputs):
            self._values[rows, column] = value
        for total, kept in self._totals.items():
            kept[rows] = totals[total]
        self._stamps[rows] = self._layout.period(now_ms)


class _Layout:
    """How the item side of a feature set is laid out: its totals, its cached features, its cells as integers."""

    def __init__(self, features: FeatureSet) -> None:
        self.steady, self.columns = features.placed(lambda f: f.entity is Entity.ITEM and not f.ticking)
        ticking, _ = features.placed(lambda f: f.entity is Entity.ITEM and f.ticking)
        self.ticking_totals = tuple(dict.fromkeys(t for f in ticking for t in f.totals))
        if any(t.window.hop_ms for t in self.ticking_totals):
            raise ValueError("a feature that ticks reads lifetime totals only")
        aggregates: list[Aggregate] = [a for a in features.aggregates if a.entity is Entity.ITEM]
        self._numbers = {a.name: number for number, a in enumerate(aggregates)}
        self._totals = [
            [t for t in features.totals if t.entity is Entity.ITEM and t.aggregate_name == a.name]
            for a in aggregates
        ]
        self._hop_ms = min((a.hop_ms for a in aggregates if a.hop_ms), default=MS_PER_DAY)

    def period(self, now_ms: int) -> int:
        """Cached values hold while this stays the same: hops divide one another, so the finest tells."""
        return now_ms // self._hop_ms

    def encode(self, state: EntityState) -> Cells:
        """A state's cells as integers. Cells of other feature sets are left out."""
        codes, amounts = [], []
        for cell, amount in state.cells.items():
            name, tile, _ = parse_cell(cell)
            number_ = self._numbers.get(name)
            if number_ is not None:
                codes.append(number_ << _TILE_BITS | max(tile, 0))
                amounts.append(amount)
        return np.array((codes, amounts), dtype=np.int64)

    def decode(self, cells: Sequence[Cells], now_ms: int) -> Mapping[Total, NDArray[np.int64]]:
        """Every total of every given state as of `now_ms`, (len(cells),) int64 each."""
        n = len(cells)
        owner = np.repeat(np.arange(n), [c.shape[1] for c in cells])
        codes, amounts = np.concatenate(cells, axis=1) if n else np.empty((2, 0), np.int64)
        order = np.argsort(codes >> _TILE_BITS, kind="stable")
        owner, codes, amounts = owner[order], codes[order], amounts[order]
        tiles = codes & ((1 << _TILE_BITS) - 1)
        ends = np.searchsorted(codes, np.arange(len(self._totals) + 1) << _TILE_BITS)
        found: dict[Total, NDArray[np.int64]] = {}
        for i, totals in enumerate(self._totals):
            part = slice(ends[i], ends[i + 1])
            for total in totals:
                weighted = _weighted(total, tiles[part], amounts[part], now_ms)
                # float64 sums of integers below 2^53 are exact
                found[total] = np.bincount(owner[part], weighted, minlength=n).astype(np.int64)
        return found


def _weighted(
    total: Total, tiles: NDArray[np.int64], amounts: NDArray[np.int64], now_ms: int
) -> NDArray[np.int64]:
    window = total.window
    if not window.hop_ms:
        return amounts
    age = now_ms // window.hop_ms - tiles
    weights = window.weights[np.clip(age, 0, window.tiles - 1)]
    return np.where((age >= 0) & (age < window.tiles), weights * amounts, 0)


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

    def count(self, look: Look) -> Ints:
        raise TypeError("an item has no histories")

    def latest_ms(self, look: Look) -> Ints:
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


def _attribute_columns(
    items: Sequence[Item], features: Iterable[Feature]
) -> dict[tuple[str, float, tuple[str, ...]], NDArray[np.float64]]:
    wanted = [f for f in features if isinstance(f, Attribute) and f.entity is Entity.ITEM]
    return {
        (f.attribute, f.default, f.vocabulary): np.array(
            [number(i.attributes.get(f.attribute), f.default, f.vocabulary) for i in items], np.float64
        )
        for f in wanted
    }
