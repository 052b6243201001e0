"""Apply changes from the log to the lake's item and user tables.

Next to each table, `_changed.parquet` has the time of each id's last change, so that a repeated older change is
ignored. Rows that only an import has written are not in it.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.changes import C, ItemChange, UserChange, newest
from recsys.datasets.catalogue import items_path, read_table, users_path, users_table
from recsys.items.item_table import items_table
from recsys.lake.forget import user_digest

Written = list[tuple[Path, pa.Table]]  # paths below the lake


def items_after(lake: Path, changes: Sequence[ItemChange]) -> Written:
    """Item table and change times after the changes; empty if all are outdated. A deleted item keeps its time."""
    latest, times = _latest(items_path(lake), changes)
    put = items_table([change.item for change in latest.values() if change.item is not None])
    return _written(lake, items_path(lake), put, latest, times)


def users_after(lake: Path, changes: Sequence[UserChange]) -> Written:
    """The same for users. Of a deleted user the digest of the id remains, so that no import brings the user back."""
    latest, times = _latest(users_path(lake), changes)
    put = users_table([change.user for change in latest.values() if change.user is not None])
    for user_id, change in latest.items():
        times.pop(user_id if change.user is None else user_digest(user_id), None)
        if change.user is None:
            times[user_digest(user_id)] = change.changed_ms
    return _written(lake, users_path(lake), put, latest, times)


def times_path(table: Path) -> Path:
    return table.with_name("_changed.parquet")


def change_times(table: Path) -> dict[str, int]:
    """Id → Unix milliseconds of its last change through the log; a deleted user has the `user_digest` for an id.
    `table`: the path of the item or the user table."""
    path = times_path(table)
    if not path.exists():
        return {}
    key = _key(table)
    found = read_table(path, _times_schema(key))
    return dict(zip(found.column(key).to_pylist(), found.column("changed_ms").to_pylist(), strict=True))


def _latest(table: Path, changes: Sequence[C]) -> tuple[dict[str, C], dict[str, int]]:
    """The latest change of each id that is not outdated, and the change times after them."""
    times = change_times(table) if changes else {}
    latest = {
        key: change
        for key, change in newest(changes).items()
        if change.changed_ms >= max(times.get(key, 0), times.get(user_digest(key), 0))
    }
    return latest, times | {key: change.changed_ms for key, change in latest.items()}


def _written(
    lake: Path, table: Path, put: pa.Table, changed: Collection[str], times: Mapping[str, int]
) -> Written:
    if not changed:
        return []
    key, rows = _key(table), put
    if table.exists():
        old = read_table(table, put.schema)
        kept = old.filter(pc.invert(pc.is_in(old.column(key), pa.array(list(changed), pa.string()))))
        rows = pa.concat_tables([kept, put])
    return [
        (table.relative_to(lake), rows.sort_by(key)),
        (times_path(table).relative_to(lake), times_table(key, sorted(times.items()))),
    ]


def times_table(key: str, rows: Sequence[tuple[str, int]]) -> pa.Table:
    """The table that `change_times` reads."""
    return pa.table([[id_ for id_, _ in rows], [ms for _, ms in rows]], schema=_times_schema(key))


def _times_schema(key: str) -> pa.Schema:
    return pa.schema([(key, pa.string()), ("changed_ms", pa.int64())])


def _key(table: Path) -> str:
    return "item_id" if table.stem == "items" else "user_id"
