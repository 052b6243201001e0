"""Reading `items.parquet`: the item table of a lake or a bundle."""

from pathlib import Path

import pyarrow as pa

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item
from recsys.lake.parquet import read_columns

_COLUMNS = ("item_id", "title", "categories", "creator", "created_ms", "attributes")


def read_items(path: Path) -> list[Item]:
    """Every item, in the table's order.

    Raises:
        InvalidData: the file is missing, is no Parquet, or lacks a column.
    """
    try:
        table = read_columns(path, _COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidData(f"{path}: not a readable item table: {error}; import the data set again") from error
    columns = (table.column(name).to_pylist() for name in _COLUMNS)
    return [
        Item(
            item_id,
            title or "",
            tuple(categories or ()),
            creator or "",
            created_ms or 0,
            dict(attributes or ()),
        )
        for item_id, title, categories, creator, created_ms, attributes in zip(*columns, strict=True)
    ]
