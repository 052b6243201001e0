"""What the topic and the store have of the committed changes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.contracts.event_log import Record
from recsys.store.base import FeatureStore


@dataclass
class Delivered:
    """`lost`: changes that never came. `reordered`: changes that came first after a later one of their item had come.
    `stale_last`: items whose last record is not their last change. `repeated`: records that had come already."""

    records: int = 0
    lost: int = 0
    reordered: int = 0
    stale_last: int = 0
    repeated: int = 0


def delivered(committed: Mapping[str, int], records: Iterable[Record]) -> Delivered:
    """Compare the topic with the number of committed changes by item. The n-th change has the title "n".

    >>> import orjson
    >>> def record(n): return Record("items", 0, 0, "i", orjson.dumps({"item": {"title": str(n)}, "changed_ms": 1}))
    >>> delivered({"i": 4}, map(record, [1, 3, 2, 3]))
    Delivered(records=4, lost=1, reordered=1, stale_last=1, repeated=1)
    """
    found = Delivered()
    seen: dict[str, set[int]] = {}
    last: dict[str, int] = {}
    for record in records:
        number = int(orjson.loads(record.value)["item"]["title"])
        known = seen.setdefault(record.key, set())
        found.records += 1
        if number in known:
            found.repeated += 1
        elif known and number < max(known):
            found.reordered += 1
        known.add(number)
        last[record.key] = number
    for key, count in committed.items():
        found.lost += len(set(range(1, count + 1)) - seen.get(key, set()))
        found.stale_last += last.get(key) != count
    return found


def wrong_in_store(database: CatalogueDatabase, store: FeatureStore) -> int:
    """Items that the store has otherwise than the database, or not at all."""
    there = dict(store.catalogue())
    return sum(
        change.item_id not in there or there[change.item_id] != change.item for change in database.items()
    )
