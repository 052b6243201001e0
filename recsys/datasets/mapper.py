"""Chunks of raw columns to batches in the lake's schemas, by a mapping."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.events import CATEGORIES, CATEGORY_SEPARATOR, CREATOR, MAX_CONTEXT_LENGTH, MAX_ID_LENGTH
from recsys.datasets.base import DRAFT_SCHEMA, USER_SCHEMA, Batch
from recsys.datasets.checks import Checker, Mask
from recsys.datasets.mapping import EventRule, EventTable, ItemTable, UserTable
from recsys.datasets.reading import read_chunks
from recsys.items.item_table import ITEM_SCHEMA
from recsys.lake.lake import TIME

_LONGEST = MAX_CONTEXT_LENGTH - MAX_ID_LENGTH  # of an item's joined categories: they must fit into a context


def map_events(folder: Path, table: EventTable, catalogue: pa.Table) -> Iterator[Batch]:
    """The events of the files, in `DRAFT_SCHEMA`: see `recsys.datasets.base.Dataset.events`."""
    known = ItemContext(catalogue)
    for chunk in read_chunks(folder, table, table.used()):
        yield _events(Checker(chunk), table, known)


def map_items(folder: Path, table: ItemTable) -> Iterator[Batch]:
    """The items of the files, in `ITEM_SCHEMA`."""
    for chunk in read_chunks(folder, table, table.used()):
        yield _items(Checker(chunk), table)


def map_users(folder: Path, table: UserTable) -> Iterator[Batch]:
    """The users of the files, in `USER_SCHEMA`."""
    for chunk in read_chunks(folder, table, table.used()):
        cells = Checker(chunk)
        columns = [cells.identifier(table.user), texts_by_name(_optional(cells, table.attributes))]
        yield _batch(cells, pa.Table.from_arrays(columns, schema=USER_SCHEMA))


class ItemContext:
    """What an event's context says about its item."""

    def __init__(self, catalogue: pa.Table) -> None:
        self._ids = catalogue.column("item_id").combine_chunks()
        categories = catalogue.column("categories").combine_chunks()
        self._columns = {
            CATEGORIES: _null_if_empty(pc.binary_join(categories, CATEGORY_SEPARATOR)),
            CREATOR: _null_if_empty(catalogue.column("creator").combine_chunks()),
        }

    def of(self, items: pa.Array) -> dict[str, pa.Array]:
        """By context key one text for each item; null for unknown items and items without it."""
        rows = pc.index_in(items, value_set=self._ids)
        return {key: column.take(rows) for key, column in self._columns.items()}


def _events(cells: Checker, table: EventTable, known: ItemContext) -> Batch:
    """What a row's later rules give is one millisecond later each: a click must not precede its impression, or
    features as of the impression would hold the answer."""
    users, items = cells.identifier(table.user), cells.identifier(table.item)
    times = pa.array(cells.time(table.time))
    count = len(cells)
    request = _request(cells, table.request)
    position = cells.position(table.position) if table.position else pa.nulls(count, pa.int64())
    key = cells.text(table.id) if table.id else pa.nulls(count, pa.string())
    extra = {name: cells.text(column) for name, column in table.context.items()}
    for name, column in table.context.items():
        too_long = pc.greater(pc.utf8_length(extra[name]), MAX_CONTEXT_LENGTH - len(name))
        cells.flag(
            np.array(too_long.fill_null(False)), column, f"is longer than {MAX_CONTEXT_LENGTH} characters"
        )
    # the file's own columns win over the catalogue: they say what held at that time
    context = texts_by_name({**known.of(items), **extra})
    chosen = [
        (rule, _chosen(cells, rule), cells.number(rule.value) if rule.value else None)
        for rule in table.events
    ]
    none = ~np.logical_or.reduce([rows for _, rows, _ in chosen])
    deciding = table.events[0].when or ""
    cells.flag(none, deciding, "no event rule of the mapping applies")
    good = cells.good
    parts = []
    for later, (rule, rows, value) in enumerate(chosen):
        mask = pa.array(rows & good)
        columns = {
            "type": pa.repeat(pa.scalar(str(rule.type)), count),
            "user_id": users,
            "item_id": items,
            TIME: pc.add(times, later),
            "request_id": request,
            "position": position,
            "value": value if value is not None else pa.nulls(count, pa.float64()),
            "context": context,
            "key": key,
        }
        part = pa.Table.from_arrays([columns[name] for name in DRAFT_SCHEMA.names], schema=DRAFT_SCHEMA)
        parts.append(part.filter(mask))
    return Batch(pa.concat_tables(parts), cells.broken())


def _chosen(cells: Checker, rule: EventRule) -> Mask:
    if rule.when is None:
        return np.ones(len(cells), dtype=bool)
    if rule.equals is None:
        return cells.truth(rule.when)
    return np.array(pc.fill_null(pc.equal(cells.text(rule.when), rule.equals), False), dtype=bool)


def _items(cells: Checker, table: ItemTable) -> Batch:
    ids = cells.identifier(table.item)
    categories = _categories(cells, table)
    joined = pc.binary_join(categories, CATEGORY_SEPARATOR)
    culprit = table.categories or ""
    cells.flag(
        np.array(pc.greater(pc.utf8_length(joined), _LONGEST)),
        culprit,
        f"categories are longer than {_LONGEST} characters",
    )
    creator = _text_or_empty(cells, table.creator)
    if table.creator:
        cells.check_identifier(creator, table.creator)
    created = (
        cells.time(table.created, required=False) if table.created else np.zeros(len(cells), dtype=np.int64)
    )
    columns = [
        ids,
        _text_or_empty(cells, table.title),
        categories,
        creator,
        pa.array(created),
        texts_by_name(_optional(cells, table.attributes)),
    ]
    return _batch(cells, pa.Table.from_arrays(columns, schema=ITEM_SCHEMA))


def _categories(cells: Checker, table: ItemTable) -> pa.Array:
    """One list of categories an item: those of the cell, then those of the flags."""
    found: list[list[str]] = [[] for _ in range(len(cells))]
    if table.categories:
        for row, cell in enumerate(cells.text(table.categories).to_pylist()):
            names = (name.strip() for name in (cell or "").split(table.separator))
            kept = (name for name in names if name and name not in table.ignored)
            found[row] = [table.prefix + name.replace(CATEGORY_SEPARATOR, "/") for name in kept]
    for category, column in table.flags.items():
        for row in np.flatnonzero(cells.truth(column)).tolist():
            found[row].append(category)
    return pa.array([list(dict.fromkeys(names)) for names in found], pa.list_(pa.string()))


def texts_by_name(columns: Mapping[str, pa.Array]) -> pa.MapArray:
    """One map a row of the columns' texts by their names; nulls are left out."""
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


def _request(cells: Checker, columns: Sequence[str]) -> pa.Array:
    """The columns' texts joined by "-"; null where one of them is."""
    if not columns:
        return pa.nulls(len(cells), pa.string())
    request = pc.binary_join_element_wise(*(cells.text(column) for column in columns), "-")
    cells.check_identifier(request, columns[0])
    return request


def _optional(cells: Checker, columns: Mapping[str, str]) -> dict[str, pa.Array]:
    # one column that is always null keeps the shape when nothing is mapped
    return {name: cells.text(column) for name, column in columns.items()} or {
        "": pa.nulls(len(cells), pa.string())
    }


def _text_or_empty(cells: Checker, column: str | None) -> pa.Array:
    return pc.fill_null(cells.text(column), "") if column else pa.repeat(pa.scalar(""), len(cells))


def _null_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _batch(cells: Checker, rows: pa.Table) -> Batch:
    return Batch(rows.filter(pa.array(cells.good)), cells.broken())
