"""Items and users from the lake's tables into the database, and from the database into such tables."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.contracts.changes import C, ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig
from recsys.datasets.catalogue import items_path, read_users, users_path, users_table
from recsys.datasets.changed import change_times, times_path, times_table
from recsys.items.item_table import items_table, read_items
from recsys.lake.forget import forgotten_users, is_forgotten, user_digest
from recsys.lake.lake import write_parquet

_CHUNK = 500


@dataclass(frozen=True)
class Transferred:
    items: int
    deleted: int  # of the items
    users: int


def import_tables(
    database: CatalogueDatabase,
    folder: Path,
    publish: bool = False,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Transferred:
    """Store the items and users of `folder`, a lake or an export. Idempotent: what the database has newer stays.

    Args:
        publish: send them to the topics as well, as if the API had got them now: they replace what is there.
        now_ms: that time; a record needs one that is newer than what store and lake have.

    Raises:
        InvalidData: a table is missing or cannot be read.
    """
    items, users = item_changes(folder), user_changes(folder)
    if publish:
        at = now_ms()
        _store([replace(change, changed_ms=at) for change in items], database.put_items)
        _store([replace(change, changed_ms=at) for change in users], database.put_users)
    else:
        _store(items, database.load_items)
        _store(users, database.load_users)
    deleted = sum(change.item is None for change in items)
    return Transferred(len(items) - deleted, deleted, len(users))


def item_changes(folder: Path) -> list[ItemChange]:
    """The items of a lake, with the time of their last change through the topics (0: none), and those deleted so."""
    path = items_path(folder)
    times = change_times(path)
    found = [ItemChange(item.item_id, item, times.pop(item.item_id, 0)) for item in read_items(path)]
    return found + [ItemChange(item_id, None, changed_ms) for item_id, changed_ms in times.items()]


def user_changes(folder: Path) -> list[UserChange]:
    """The users of a lake, but those who were forgotten; none if it has no table of users."""
    path = users_path(folder)
    if not path.exists():
        return []
    times, forgotten = change_times(path), forgotten_users(folder)
    changes = [UserChange(user.user_id, user, times.get(user.user_id, 0)) for user in read_users(folder)]
    return [
        change
        for change in changes
        if not is_forgotten(forgotten, change.user_id, change.changed_ms)
        and times.get(user_digest(change.user_id), -1) < change.changed_ms
    ]


def export_tables(database: CatalogueDatabase, folder: Path) -> Transferred:
    """Write the tables of a lake, with the times of the changes. Raises `InvalidConfig`: there are such tables."""
    items, users = items_path(folder), users_path(folder)
    if items.exists() or users.exists():
        raise InvalidConfig(f"{folder} has tables of items or users already; name another folder")
    changes = list(database.items())
    put = [change.item for change in changes if change.item is not None]
    write_parquet(items, items_table(put))
    write_parquet(times_path(items), times_table("item_id", _times(changes)))
    owners = list(database.users())
    write_parquet(users, users_table([change.user for change in owners if change.user is not None]))
    write_parquet(times_path(users), times_table("user_id", _times(owners)))
    return Transferred(len(put), len(changes) - len(put), len(owners))


def _times(changes: Iterable[ItemChange | UserChange]) -> list[tuple[str, int]]:
    return [(change.key, change.changed_ms) for change in changes if change.changed_ms]


def _store(changes: Sequence[C], store: Callable[[Sequence[C]], Any]) -> None:
    for chunk in _chunks(iter(changes)):
        store(chunk)


def _chunks(changes: Iterator[C]) -> Iterator[list[C]]:
    while chunk := list(islice(changes, _CHUNK)):
        yield chunk
