"""The item table, `items.parquet` of a lake or a bundle: one row per item, sorted by id; a row is an item's number."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.contracts.errors import InvalidData
from recsys.contracts.languages import titles_of
from recsys.contracts.types import Item
from recsys.lake.parquet import completed, read_batches

ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("creator", pa.string(), nullable=False),
        pa.field("created_ms", pa.int64(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
        # null: always, forever, everywhere, one title for all; tables of before these columns lack them
        pa.field("available_from_ms", pa.int64()),
        pa.field("available_until_ms", pa.int64()),
        pa.field("regions", pa.list_(pa.string())),
        pa.field("titles", pa.map_(pa.string(), pa.string())),
    ]
)
_REQUIRED = [field.name for field in ITEM_SCHEMA if not field.nullable]
_OPTIONAL = [field.name for field in ITEM_SCHEMA if field.nullable]
_READABLE = pa.schema([field.with_nullable(True) for field in ITEM_SCHEMA])


def items_table(items: Sequence[Item]) -> pa.Table:
    """A table in `ITEM_SCHEMA`."""
    columns = {name: [getattr(item, name) for item in items] for name in ITEM_SCHEMA.names}
    columns["attributes"] = [list(item.attributes.items()) for item in items]
    columns["titles"] = [list((item.titles or {}).items()) for item in items]
    columns |= {name: [value or None for value in columns[name]] for name in _OPTIONAL}
    return pa.table(columns, schema=ITEM_SCHEMA)


def table_items(table: pa.Table) -> list[Item]:
    """The rows of a table that has the columns of `ITEM_SCHEMA`."""
    columns = (_values(table.column(name)) for name in ITEM_SCHEMA.names)
    return [
        Item(
            item_id,
            title or "",
            tuple(categories or ()),
            creator or "",
            created or 0,
            {name: text for name, text in attributes or () if text is not None},
            start or 0,
            end or 0,
            tuple(regions or ()),
            titles_of(titles or ()),
        )
        for item_id, title, categories, creator, created, attributes, start, end, regions, titles in zip(
            *columns, strict=True
        )
    ]


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """A column without a value, as most catalogues have some, costs nothing."""
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()


def read_items(path: Path) -> list[Item]:
    """Every item, in the table's order. Raises `InvalidData`: the file is missing, is not Parquet, or lacks a
    column."""
    return [*iterate_items(path)]


def iterate_items(path: Path) -> Iterator[Item]:
    """As `read_items`, with few of them in memory at a time."""
    try:
        for table in read_batches(path, _REQUIRED, _OPTIONAL):
            yield from table_items(completed(table, _READABLE))
    except FileNotFoundError:
        raise InvalidData(
            f"{path}: no item table; import a data set first: recsys data import PATH"
        ) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidData(f"{path}: not a readable item table: {error}; import the data set again") from error
