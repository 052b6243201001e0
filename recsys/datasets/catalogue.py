"""The lake's `items/items.parquet` and `users/users.parquet`: one row an id, sorted by id."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.datasets.base import ITEM_SCHEMA, USER_SCHEMA
from recsys.errors import InvalidData
from recsys.types import Item, User


def items_path(lake: Path) -> Path:
    return lake / "items" / "items.parquet"


def users_path(lake: Path) -> Path:
    return lake / "users" / "users.parquet"


def read_items(lake: Path) -> list[Item]:
    """The lake's catalogue, sorted by id.

    Raises:
        InvalidData: there is none, or it cannot be read.
    """
    return table_items(_read(items_path(lake), ITEM_SCHEMA))


def read_users(lake: Path) -> list[User]:
    """The lake's known users, sorted by id.

    Raises:
        InvalidData: there are none, or they cannot be read.
    """
    return table_users(_read(users_path(lake), USER_SCHEMA))


def table_items(table: pa.Table) -> list[Item]:
    """The rows of a table in `ITEM_SCHEMA`."""
    return [
        Item(**{**row, "categories": tuple(row["categories"]), "attributes": dict(row["attributes"])})
        for row in table.to_pylist()
    ]


def table_users(table: pa.Table) -> list[User]:
    """The rows of a table in `USER_SCHEMA`."""
    return [User(row["user_id"], dict(row["attributes"])) for row in table.to_pylist()]


def items_table(items: Sequence[Item]) -> pa.Table:
    """A table in `ITEM_SCHEMA`."""
    columns = {name: [getattr(item, name) for item in items] for name in ITEM_SCHEMA.names}
    columns["attributes"] = [list(item.attributes.items()) for item in items]
    return pa.table(columns, schema=ITEM_SCHEMA)


def first_of_each(table: pa.Table, key: str) -> pa.Table:
    """The first row of each key, in the table's order."""
    codes = table.column(key).combine_chunks().dictionary_encode().indices
    _, first = np.unique(np.asarray(codes), return_index=True)
    return table if len(first) == table.num_rows else table.take(pa.array(np.sort(first)))


def merged(new: pa.Table, path: Path, key: str) -> pa.Table:
    """`new`, and the rows of the file whose keys it lacks: other data sets' items stay. Sorted by key."""
    tables = [new, _read(path, new.schema)] if path.exists() else [new]
    return first_of_each(pa.concat_tables(tables), key).sort_by(key)


def with_changes(path: Path, changes: Mapping[str, Item | None]) -> pa.Table:
    """The item table at `path`, or an empty one, with items put and (None) taken out. Sorted by id."""
    new = items_table([item for item in changes.values() if item is not None])
    if not path.exists():
        return new.sort_by("item_id")
    old = _read(path, ITEM_SCHEMA)
    kept = old.filter(pc.invert(pc.is_in(old.column("item_id"), pa.array(list(changes), pa.string()))))
    return pa.concat_tables([kept, new]).sort_by("item_id")


TIMES_SCHEMA = pa.schema([("item_id", pa.string()), ("changed_ms", pa.int64())])


def times_path(lake: Path) -> Path:
    """When each item was last changed through the log; what only an import has put is not there."""
    return lake / "items" / "_changed.parquet"


def change_times(lake: Path) -> dict[str, int]:
    """Item id → Unix milliseconds of its latest change, deletions included; empty before the first."""
    if not times_path(lake).exists():
        return {}
    table = _read(times_path(lake), TIMES_SCHEMA)
    return dict(zip(table.column("item_id").to_pylist(), table.column("changed_ms").to_pylist(), strict=True))


def times_table(times: Mapping[str, int]) -> pa.Table:
    """The inverse of `change_times`, sorted by id."""
    rows = sorted(times.items())
    return pa.table([[item_id for item_id, _ in rows], [ms for _, ms in rows]], schema=TIMES_SCHEMA)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    if not path.exists():
        raise InvalidData(f"{path}: not there; import a data set first: recsys data import PATH")
    try:
        with path.open("rb") as file:  # opened once: the archiver may put another file in its place meanwhile
            return pq.read_table(file).select(schema.names).cast(schema)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise InvalidData(f"{path}: not a table of the lake: {error}") from error
