"""Compare the database with the lake and with the online store: by one checksum each, and by name where they differ.

What is under way makes a difference, too: rows of the outbox, records that the worker or the archiver has not read.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import orjson

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.transfer import item_changes, user_changes
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.types import Item, User
from recsys.store.base import FeatureStore

_BYTES = 16
_DELETED = b"deleted"


@dataclass
class Comparison:
    """One kind of entry in the database and in one other place. Equal checksums: the same ids with the same content."""

    rows: int = 0
    checksum: str = ""  # of what the place should have
    found_checksum: str = ""
    missing: list[str] = field(default_factory=list)  # only the database has them
    differing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # only the other place has them

    @property
    def equal(self) -> bool:
        return not (self.missing or self.differing or self.unknown)


def verify(database: CatalogueDatabase, lake: Path, store: FeatureStore) -> dict[str, Comparison]:
    """Items and users in `lake` and `store`, by a name such as "items in the lake".

    The lake must have every row but the deleted items. The store must have those that were changed through the topics;
    of the others it has none, or the same.
    """
    items_there = {change.item_id: _digest(change.item) for change in item_changes(lake) if change.item}
    users_there = {change.user_id: _digest(change.user) for change in user_changes(lake)}
    catalogue = {item_id: _digest(item) for item_id, item in store.catalogue()}
    return {
        "items in the lake": compare(_live(database.items()), items_there),
        "users in the lake": compare(((c.key, _digest(c.user)) for c in database.users()), users_there),
        "items in the store": compare(
            ((c.key, _digest(c.item)) for c in database.items() if c.changed_ms or c.key in catalogue),
            catalogue,
        ),
        "users in the store": _users_in(store, database.users()),
    }


def compare(expected: Iterable[tuple[str, bytes]], found: Mapping[str, bytes]) -> Comparison:
    """Entries as (id, digest), each id once."""
    result, left = Comparison(), dict(found)
    should = 0
    for key, digest in expected:
        result.rows += 1
        should ^= _entry(key, digest)
        there = left.pop(key, None)
        if there is None:
            result.missing.append(key)
        elif there != digest:
            result.differing.append(key)
    result.unknown = sorted(left)
    result.checksum, result.found_checksum = _hex(should), _hex(_all(found))
    return result


def _users_in(store: FeatureStore, users: Iterator[UserChange]) -> Comparison:
    """User by user: the store has no list of those with attributes."""
    expected: list[tuple[str, bytes]] = []
    found: dict[str, bytes] = {}
    for change in users:
        attributes = store.user(change.user_id).attributes
        if attributes is not None:
            found[change.user_id] = _digest(User(change.user_id, attributes))
        if attributes is not None or change.changed_ms:
            expected.append((change.user_id, _digest(change.user)))
    return compare(expected, found)


def _live(changes: Iterator[ItemChange]) -> Iterator[tuple[str, bytes]]:
    return ((change.key, _digest(change.item)) for change in changes if change.item is not None)


def _digest(entry: Item | User | None) -> bytes:
    if entry is None:
        return _DELETED
    content = orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)
    return blake2b(content, digest_size=_BYTES).digest()


def _entry(key: str, digest: bytes) -> int:
    """Order-free: entries are combined by exclusive or, and an id occurs once."""
    content = orjson.dumps([key, digest.hex()])
    return int.from_bytes(blake2b(content, digest_size=_BYTES).digest(), "big")


def _all(found: Mapping[str, bytes]) -> int:
    total = 0
    for key, digest in found.items():
        total ^= _entry(key, digest)
    return total


def _hex(checksum: int) -> str:
    return f"{checksum:0{2 * _BYTES}x}"
