"""Data sets described by a mapping: MovieLens, RecBole's files, and any user's own tables."""

import re
import time
from collections.abc import Iterator
from collections.abc import Mapping as Columns
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.changes import MAX_CATEGORIES, MAX_REGIONS
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import (
    CATEGORIES,
    CREATOR,
    MAX_CONTEXT_LENGTH,
    MOST_VALUE,
    MOST_VALUES,
    fitting_categories,
)
from recsys.contracts.text import CATEGORY_SEPARATOR, category_text, free_text, id_text, name_text
from recsys.contracts.types import MAX_STARS, MIN_STARS, MS_PER_DAY, MS_PER_SECOND, EventType
from recsys.datasets.base import DRAFT_SCHEMA, USER_SCHEMA, Batch
from recsys.datasets.checks import Checker, Mask, Rule
from recsys.datasets.mapping import EventRule, EventTable, ItemTable, Mapping, TimeColumn, UserTable
from recsys.datasets.reading import null_if_empty, read_chunks
from recsys.datasets.times import EARLIEST_MS, Span, Spread
from recsys.items.item_table import ITEM_SCHEMA
from recsys.lake.lake import TIME

# In the context of events whose order is known but not their time.
SYNTHETIC_TIME = "synthetic_time"
_BETWEEN = re.compile("[|,;]")  # regions of a cell
_FEWEST = 10  # rows from which a log without an order is refused


@dataclass(frozen=True)
class MappedDataset:
    """The `Dataset` that a mapping makes of the files in `folder`."""

    name: str
    folder: Path
    mapping: Mapping
    source: str = ""
    not_read: tuple[str, ...] = ()
    # a day of grace for clocks and time zones
    latest_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000 + MS_PER_DAY)

    @property
    def attribution(self) -> str:
        return self.mapping.events.attribution

    def items(self) -> Iterator[Batch]:
        if table := self.mapping.items:
            yield from (_items(cells, table) for cells in self._read(table))

    def users(self) -> Iterator[Batch]:
        if table := self.mapping.users:
            yield from (_users(cells, table) for cells in self._read(table))

    def events(self, catalogue: pa.Table) -> Iterator[Batch]:
        table, known, rows = self.mapping.events, ItemContext(catalogue), 0
        span = self.span()
        for cells in self._read(table):
            if span is None:
                times = table.time.first_ms + MS_PER_SECOND * np.arange(
                    rows, rows + len(cells), dtype=np.int64
                )
            else:
                times = cells.time(table.time, span)
            rows += len(cells)
            yield _events(cells, table, known, pa.array(times))

    @property
    def plausible(self) -> Span:
        """The times that a log may have."""
        return Span(EARLIEST_MS, self.latest_ms, self.latest_ms)

    def span(self) -> Span | None:
        """Where the log's times are, of one pass over their column; None: the order of rows stands for them.

        Raises:
            InvalidData: all rows have one time, or none has any: there is no order to learn from.
        """
        table = self.mapping.events
        if table.time.column is None:
            return None
        spread, rows, empty = Spread(self.latest_ms), 0, 0
        for chunk in read_chunks(self.folder, table, [table.time.column]):
            spread.add(Checker(chunk).time(table.time, self.plausible))
            rows, empty = rows + chunk.table.num_rows, empty + chunk.table.column(0).null_count
        if rows >= _FEWEST and (empty == rows or (spread.rows == rows and spread.at_one_instant)):
            found = "is empty in every row" if empty else "is the same in every row"
            raise InvalidData(
                f"{self.folder}: column {table.time.column} {found}, so nothing tells which event came first. If the "
                "rows are in order, set `time: {unit: rows, first: 2026-01-01}` in the mapping (docs/data.md)"
            )
        return spread.span()

    def _read(self, table: EventTable | ItemTable | UserTable) -> Iterator[Checker]:
        return map(Checker, read_chunks(self.folder, table, table.used()))


class ItemContext:
    """What an event's context says about its item."""

    def __init__(self, catalogue: pa.Table) -> None:
        self._ids = catalogue.column("item_id").combine_chunks()
        categories = pc.binary_join(catalogue.column("categories").combine_chunks(), CATEGORY_SEPARATOR)
        fitting = [fitting_categories(joined) for joined in categories.to_pylist()]
        self._columns = {
            CATEGORIES: null_if_empty(pa.array(fitting, pa.string())),
            CREATOR: null_if_empty(catalogue.column("creator").combine_chunks()),
        }

    def of(self, items: pa.Array) -> dict[str, pa.Array]:
        """Context key → its text for each item; null for unknown items and items without it."""
        rows = pc.index_in(items, value_set=self._ids)
        return {key: column.take(rows) for key, column in self._columns.items()}


def _events(cells: Checker, table: EventTable, known: ItemContext, times: pa.Array) -> Batch:
    """Apply the rules. The event of each later rule is one millisecond later: a click at the time of its impression
    would be part of the impression's features."""
    count = len(cells)
    columns: dict[str, pa.Array] = {
        "user_id": cells.identifier(table.user, table.anonymous),
        "item_id": cells.identifier(table.item),
    }
    columns["request_id"] = _request(cells, table.request)
    positions = cells.position(table.position, table.first_position) if table.position else None
    columns["position"] = pa.nulls(count, pa.int64()) if positions is None else positions
    columns["key"] = cells.text(table.id) if table.id else pa.nulls(count, pa.string())
    extra = {
        name: cells.text(column, free_text if name in (CATEGORIES, CREATOR) else None)
        for name, column in table.context.items()
    }
    for name, column in table.context.items():
        too_long = pc.greater(pc.utf8_length(extra[name]), MAX_CONTEXT_LENGTH - len(name))
        reason = f"is longer than {MAX_CONTEXT_LENGTH} characters"
        cells.flag(np.array(too_long.fill_null(False)), column, reason)
    if table.time.column is None:
        extra[SYNTHETIC_TIME] = pa.repeat(pa.scalar("1"), count)
    # The file's columns override the catalogue, because they hold at the time of the event.
    columns["context"] = texts_by_name({**known.of(columns["item_id"]), **extra})
    selected = [(rule, _rows_of(cells, rule), _values_of(cells, rule)) for rule in table.events]
    without_event = ~np.logical_or.reduce([rows for _, rows, _ in selected])
    cells.flag(without_event, table.events[0].when or "", "no event rule of the mapping applies")
    for rule, rows, value in selected:
        if rule.value:
            most = MOST_VALUES.get(rule.type, MOST_VALUE)
            outside = pc.or_(pc.less(value, 0.0), pc.greater(value, most))
            cells.flag(rows & np.array(pc.fill_null(outside, False)), rule.value, "is out of range")
    good = cells.good
    drafts = []
    for later_ms, (rule, rows, value) in enumerate(selected):
        columns["type"] = _types(rule, value)
        columns[TIME] = pc.add(times, later_ms)
        columns["value"] = value
        draft = pa.Table.from_arrays([columns[name] for name in DRAFT_SCHEMA.names], schema=DRAFT_SCHEMA)
        drafts.append(draft.filter(pa.array(rows & good)))
    return cells.batch(pa.concat_tables(drafts))


def _rows_of(cells: Checker, rule: EventRule) -> Mask:
    """The rows that give an event of the rule."""
    if rule.when is None:
        return np.ones(len(cells), dtype=bool)
    if rule.equals is None:
        return cells.truth(rule.when)
    return np.array(pc.fill_null(pc.equal(cells.text(rule.when), rule.equals), False), dtype=bool)


def _values_of(cells: Checker, rule: EventRule) -> pa.Array:
    """The values of the rule's events; those on a scale of their own as stars."""
    if rule.value is None:
        return pa.nulls(len(cells), pa.float64())
    values = cells.number(rule.value)
    if rule.scale is None:
        return values
    worst, best = rule.scale
    outside = pc.or_(pc.less(values, worst), pc.greater(values, best))
    cells.flag(
        np.array(pc.fill_null(outside, False)), rule.value, f"is outside the scale {worst:g} to {best:g}"
    )
    share = pc.divide(pc.subtract(values, worst), best - worst)
    return pc.add(pc.multiply(share, MAX_STARS - 1.0), 1.0)


def _types(rule: EventRule, values: pa.Array) -> pa.Array:
    """The rule's type for each value; see `told_apart`."""
    types = pa.repeat(pa.scalar(str(rule.type)), len(values))
    if rule.type is not EventType.RATING:
        return types
    return pc.if_else(pc.fill_null(pc.less(values, MIN_STARS), False), str(EventType.DISLIKE), types)


def _items(cells: Checker, table: ItemTable) -> Batch:
    title, titles = _titles(cells, table)
    columns = {
        "item_id": cells.identifier(table.item),
        "title": title,
        "categories": _categories(cells, table),
        "creator": _text_or_empty(cells, table.creator, name_text),
        "created_ms": pa.array(
            cells.time(table.created) if table.created else np.zeros(len(cells), np.int64)
        ),
        "attributes": _attributes(cells, table.attributes),
        "available_from_ms": _window_time(cells, table.available_from),
        "available_until_ms": _window_time(cells, table.available_until),
        "regions": _regions(cells, table.regions),
        "titles": titles,
    }
    if table.available_from and table.available_until:
        start, end = (np.asarray(columns[f"available_{name}_ms"]) for name in ("from", "until"))
        cells.flag((end != 0) & (end <= start), table.available_until.column or "", "is not after its start")
    return _batch(cells, pa.table(columns, schema=ITEM_SCHEMA))


def _titles(cells: Checker, table: ItemTable) -> tuple[pa.Array, pa.Array]:
    """The default title of each item, and a map of those by language. Without the one, the first of these is it."""
    title = _text_or_empty(cells, table.title, free_text)
    if not table.titles:
        return title, pa.nulls(len(cells), pa.map_(pa.string(), pa.string()))
    found = {
        language: null_if_empty(cells.text(column, free_text)) for language, column in table.titles.items()
    }
    return pc.coalesce(null_if_empty(title), *found.values(), ""), texts_by_name(found)


def _window_time(cells: Checker, time: TimeColumn | None) -> pa.Array:
    return pa.array(cells.time(time)) if time else pa.nulls(len(cells), pa.int64())


def _regions(cells: Checker, column: str | None) -> pa.Array:
    """One list of regions per item."""
    if column is None:
        return pa.nulls(len(cells), pa.list_(pa.string()))
    verdicts = [_region_names(cell or "") for cell in cells.text(column).to_pylist()]
    reasons = np.array([reason for _, reason in verdicts], object)
    for reason in dict.fromkeys(filter(None, reasons)):
        cells.flag(reasons == reason, column, reason)
    return pa.array([names for names, _ in verdicts], pa.list_(pa.string()))


@cache
def _region_names(cell: str) -> tuple[tuple[str, ...], str]:
    """The regions of one cell, or the reason why it is broken."""
    try:
        names = tuple(dict.fromkeys(category_text(name) for name in _BETWEEN.split(cell) if name.strip(" ")))
    except ValueError as error:
        return (), str(error)
    return (names, "") if len(names) <= MAX_REGIONS else ((), f"has more than {MAX_REGIONS} regions")


def _users(cells: Checker, table: UserTable) -> Batch:
    columns = {
        "user_id": cells.identifier(table.user),
        "attributes": _attributes(cells, table.attributes),
    }
    return _batch(cells, pa.table(columns, schema=USER_SCHEMA))


def _categories(cells: Checker, table: ItemTable) -> pa.Array:
    """One list of categories per item: those of the cell, then those of the flags."""
    found: list[list[str]] = [[] for _ in range(len(cells))]
    if table.categories:
        texts = cells.text(table.categories).to_pylist()
        of_cell = cache(lambda cell: _split(cell, table))
        verdicts = [of_cell(cell or "") for cell in texts]
        found = [list(names) for names, _ in verdicts]
        reasons = np.array([reason for _, reason in verdicts], object)
        for reason in dict.fromkeys(filter(None, reasons)):
            cells.flag(reasons == reason, table.categories, reason)
    for category, column in table.flags.items():
        for row in np.flatnonzero(cells.truth(column)).tolist():
            found[row].append(category)
    lists = [list(dict.fromkeys(names)) for names in found]
    too_many = np.array([len(names) > MAX_CATEGORIES for names in lists], bool)
    cells.flag(too_many, table.categories or "", f"has more than {MAX_CATEGORIES} categories")
    return pa.array(lists, pa.list_(pa.string()))


def _split(cell: str, table: ItemTable) -> tuple[tuple[str, ...], str]:
    """The categories of one cell, or the reason why it is broken."""
    # spaces alone: a control character at an end is refused, as everywhere (`recsys.contracts.text`)
    names = (name.strip(" ") for name in cell.split(table.separator) if name.strip())
    known = [name for name in names if name not in table.ignored]
    try:
        return tuple(category_text(table.prefix + name) for name in known), ""
    except ValueError as error:
        return (), str(error)


def texts_by_name(columns: Columns[str, pa.Array]) -> pa.MapArray:
    """One map per row, of the columns' texts by column name. Nulls are left out."""
    names, arrays = list(columns), [pc.cast(column, pa.string()) for column in columns.values()]
    if not arrays:
        raise ValueError("no columns")
    rows = len(arrays[0])
    present = np.stack([np.asarray(array.is_valid()) for array in arrays], axis=1)  # (rows, names)
    cell = np.arange(rows)[:, None] + rows * np.arange(len(names))[None, :]
    keys = pa.array(names).take(pa.array(np.broadcast_to(np.arange(len(names)), present.shape)[present]))
    texts = pa.concat_arrays(arrays).take(pa.array(cell[present]))
    offsets = np.concatenate(([0], np.cumsum(present.sum(axis=1)))).astype(np.int32)
    return pa.MapArray.from_arrays(pa.array(offsets), keys, texts)


def _request(cells: Checker, columns: list[str]) -> pa.Array:
    """The columns' texts joined by "-"; null where one of them is null."""
    if not columns:
        return pa.nulls(len(cells), pa.string())
    request = pc.binary_join_element_wise(*(cells.text(column) for column in columns), "-")
    return cells.ruled(request, columns[0], id_text)


def _attributes(cells: Checker, columns: Columns[str, str]) -> pa.MapArray:
    texts = {name: cells.text(column, free_text) for name, column in columns.items()}
    # Without attributes, one column of nulls gives each row its empty map.
    return texts_by_name(texts or {"": pa.nulls(len(cells), pa.string())})


def _text_or_empty(cells: Checker, column: str | None, rule: Rule) -> pa.Array:
    return pc.fill_null(cells.text(column, rule), "") if column else pa.repeat(pa.scalar(""), len(cells))


def _batch(cells: Checker, rows: pa.Table) -> Batch:
    return cells.batch(rows.filter(pa.array(cells.good)))
