"""The lake's `items/items.parquet` and `users/users.parquet`: one row per id, sorted by id."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import User
from recsys.datasets.base import USER_SCHEMA
from recsys.lake.parquet import check_regular, completed


def items_path(lake: Path) -> Path:
    return lake / "items" / "items.parquet"


def users_path(lake: Path) -> Path:
    return lake / "users" / "users.parquet"


def read_users(lake: Path) -> list[User]:
    """The lake's users, sorted by id.

    Raises:
        InvalidData: there are none, or they cannot be read.
    """
    return table_users(read_table(users_path(lake), USER_SCHEMA))


def table_users(table: pa.Table) -> list[User]:
    """The rows of a table in `USER_SCHEMA`."""
    return [User(row["user_id"], dict(row["attributes"])) for row in table.to_pylist()]


def users_table(users: Sequence[User]) -> pa.Table:
    """A table in `USER_SCHEMA`."""
    rows = [{"user_id": user.user_id, "attributes": list(user.attributes.items())} for user in users]
    return pa.Table.from_pylist(rows, USER_SCHEMA)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a file of the lake in the given schema; nullable columns may be missing.

    Raises:
        InvalidData: it is missing or cannot be read.
    """
    if not path.exists():
        raise InvalidData(f"{path}: no such file; import a data set first: recsys data import PATH")
    try:
        check_regular(path)
        # Opened once, because the archiver may replace the file meanwhile.
        with path.open("rb") as file:
            return completed(pq.read_table(file), schema)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise InvalidData(f"{path}: not a table of the lake: {error}") from error
