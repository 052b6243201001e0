"""The item table in process: an item's row is its number everywhere, and its attributes are arrays by row.

Rows 0 … `trained` - 1 are the bundle's `items.parquet`, the items that the models know, and never given away. Later
items get the next rows, or that of a later item which was deleted `REUSE_AFTER_S` ago: no request, table or cached
answer holds a row so long, so nothing reads it under its old meaning. Reading needs no lock: a row becomes visible once
it is complete.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice, repeat, takewhile

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.filters import Condition
from recsys.contracts.request import Rows
from recsys.contracts.types import Item
from recsys.items.filter_columns import FilterColumns
from recsys.items.packed_items import PackedItems

NO_CODE = -1
REUSE_AFTER_S = 600.0
_BATCH = 1_000  # items that are Python objects at the same time while a table is read

_COLUMNS = np.dtype(
    [
        ("main_category", np.int32),
        ("creator", np.int32),
        ("created_ms", np.int64),
        ("available_from_ms", np.int64),
        ("available_until_ms", np.int64),
        ("alive", np.bool_),
    ]
)


class Catalogue:
    """Items by row. Thread-safe: any number of readers alongside `put` and `delete`."""

    def __init__(self, items: Iterable[Item], clock: Callable[[], float] = time.monotonic) -> None:
        """`items`: the bundle's item table, in its order. `clock`: seconds. Raises `ValueError`: item ids repeat."""
        self.version = 0  # changes with every change
        self._items = PackedItems()
        self._rows: dict[str, int] = {}
        self._categories: dict[str, int] = {}
        self._creators: dict[str, int] = {}
        self._columns = {name: np.empty(0, _COLUMNS[name]) for name in _COLUMNS.names or ()}
        self._n = 0
        self._clock = clock
        self._deleted: dict[int, float] = {}  # rows of deleted later items, and since when; the oldest first
        self._free: list[int] = []  # deleted long enough ago; they have no id
        # some item has, or once had, a window, regions or titles by language
        self.has_windows = self.has_regions = self.has_titles = False
        self._filtered = FilterColumns()
        self._lock = threading.Lock()
        left = iter(items)
        while some := list(islice(left, _BATCH)):
            self._append(some)
        self.trained = self._n
        if len(self._rows) != self._n:
            raise ValueError(f"{self._n} items have only {len(self._rows)} different ids")

    def __len__(self) -> int:
        """Number of rows, including those of deleted items."""
        return self._n

    @property
    def items(self) -> Collection[Item]:
        """Every row's, in order; decoded while they are read. Do not change it."""
        return self._items

    @property
    def rows(self) -> Mapping[str, int]:
        """Item id → row, items included that were deleted lately. Do not change it."""
        return self._rows

    @property
    def main_category(self) -> Rows:
        """(n,) int32 code of each item's first category, `NO_CODE` without one."""
        return self._columns["main_category"][: self._n]

    @property
    def creator(self) -> Rows:
        """(n,) int32 code of each item's creator, `NO_CODE` without one."""
        return self._columns["creator"][: self._n]

    @property
    def created_ms(self) -> NDArray[np.int64]:
        """(n,) Unix milliseconds, 0 where unknown. An item whose time is still to come is not out yet."""
        return self._columns["created_ms"][: self._n]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """(n,) False for deleted items."""
        return self._columns["alive"][: self._n]

    @property
    def available_from_ms(self) -> NDArray[np.int64]:
        """(n,) Unix milliseconds, 0: always."""
        return self._columns["available_from_ms"][: self._n]

    @property
    def available_until_ms(self) -> NDArray[np.int64]:
        """(n,) Unix milliseconds, 0: forever."""
        return self._columns["available_until_ms"][: self._n]

    def select(self, condition: Condition) -> tuple[int, NDArray[np.bool_]]:
        """The version of the catalogue, and (n,) bool: the items for which the condition holds, deleted ones left out.
        The first condition on an attribute reads it of every item; changes keep it current.
        Raises `InvalidFilter`: no item has an attribute of the condition, or not of the type that it asks for."""
        with self._lock:
            holds = self._filtered.mask(condition, self._items, self._columns)
            return self.version, holds & self._columns["alive"][: self._n]

    def holds(self, condition: Condition, rows: Rows) -> NDArray[np.bool_]:
        """(n,) bool: the rows for which the condition holds. Raises `InvalidFilter`: as `select`."""
        with self._lock:
            return self._filtered.mask(condition, self._items, self._columns, rows)

    def item(self, row: int) -> Item:
        return self._items[row]

    def ids(self, rows: Iterable[int]) -> list[str]:
        return self._items.ids(rows)

    def rows_of(self, item_ids: Iterable[str]) -> Rows:
        """Rows of the known ids, in order; unknown ids are left out."""
        rows = np.fromiter(map(self._rows.get, item_ids, repeat(-1)), np.int32)
        return rows[rows >= 0]

    def places(self, item_ids: Iterable[str]) -> dict[str, int]:
        """The rows that `put` would give these ids next."""
        wanted = dict.fromkeys(item_ids)
        new = [item_id for item_id in wanted if item_id not in self._rows]
        rows = [*self._free, *range(self._n, self._n + len(new))]
        given = dict(zip(new, rows, strict=False))
        return {item_id: given[item_id] if item_id in given else self._rows[item_id] for item_id in wanted}

    def put(self, items: Sequence[Item]) -> Rows:
        """Add or replace items; returns (n,) int32 rows in their order."""
        with self._lock:
            latest = {item.item_id: item for item in items}
            places = self.places(latest)
            there = [item for item_id, item in latest.items() if places[item_id] < self._n]
            self._replace(there, [places[item.item_id] for item in there])
            self._append([item for item_id, item in latest.items() if places[item_id] >= self._n])
            self._release()
            self.version += 1
            return self.rows_of(item.item_id for item in items)

    def delete(self, item_ids: Iterable[str]) -> Rows:
        """Mark items as deleted; returns the rows of the known ones."""
        with self._lock:
            rows = self.rows_of(item_ids)
            self._columns["alive"][rows] = False
            for row in rows[rows >= self.trained].tolist():
                self._deleted.setdefault(row, self._clock())
            self._release()
            self.version += 1
            return rows

    def _release(self) -> None:
        """Free the rows of items that were deleted long enough ago."""
        since = self._clock() - REUSE_AFTER_S
        for row in list(takewhile(lambda row: self._deleted[row] <= since, self._deleted)):
            del self._deleted[row], self._rows[self._items[row].item_id]
            self._free.append(row)

    def _append(self, items: Sequence[Item]) -> None:
        first, end = self._n, self._n + len(items)
        if end > len(self._columns["alive"]):
            self._columns = {name: _grown(column, 2 * end) for name, column in self._columns.items()}
        self._write(np.arange(first, end), items)
        self._items.extend(items)
        self._n = end
        self._rows.update({item.item_id: first + i for i, item in enumerate(items)})

    def _replace(self, items: Sequence[Item], rows: Sequence[int]) -> None:
        taken = set(rows)
        self._free = [row for row in self._free if row not in taken]
        for row, item in zip(rows, items, strict=True):
            self._items[row] = item
            self._deleted.pop(row, None)
        self._write(np.array(rows, np.int64), items)
        self._rows.update((item.item_id, row) for item, row in zip(items, rows, strict=True))

    def _write(self, rows: NDArray[np.int64], items: Sequence[Item]) -> None:
        main = (item.categories[0] if item.categories else "" for item in items)
        self._columns["main_category"][rows] = _codes(self._categories, main)
        self._columns["creator"][rows] = _codes(self._creators, (item.creator for item in items))
        for name in ("created_ms", "available_from_ms", "available_until_ms"):
            self._columns[name][rows] = [getattr(item, name) for item in items]
        self.has_windows |= any(item.available_from_ms or item.available_until_ms for item in items)
        self.has_regions |= any(item.regions for item in items)
        self.has_titles |= any(item.titles for item in items)
        self._filtered.write(rows, items)
        self._columns["alive"][rows] = True


def _codes(known: dict[str, int], names: Iterable[str]) -> Rows:
    """One code per name: the next free one for a new name, `NO_CODE` for the empty one."""
    codes = (known.setdefault(name, len(known)) if name else NO_CODE for name in names)
    return np.fromiter(codes, np.int32)


def _grown(column: NDArray[np.generic], capacity: int) -> NDArray[np.generic]:
    grown = np.empty(capacity, column.dtype)
    grown[: len(column)] = column
    return grown
