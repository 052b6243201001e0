"""Import, export and the comparison with lake and store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.transfer import Transferred, export_tables, import_tables
from recsys.catalogue_db.verify import Comparison, verify
from recsys.contracts.changes import ItemChange, UserChange, parse_item_change, parse_user_change
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import Item, Topic, User
from recsys.datasets.changed import items_after, users_after
from recsys.features.definitions import FEATURES
from recsys.lake.forget import mark_forgotten
from recsys.lake.lake import write_parquet
from recsys.store.memory import MemoryFeatureStore
from tests.databases import opened, sqlite_url

ITEMS = [
    ItemChange("a", Item("a", "A", ("Drama",), "someone", 7, {"size": "7"}, 8, 9, ("de", "at")), 10),
    ItemChange("b", None, 20),
    ItemChange("ä", Item("ä", "Ä", titles={"de": "Ä", "en-GB": "Æ"}), 30),
]
USERS = [UserChange("u", User("u", {"age": "31"}), 10), UserChange("v", User("v", {"age": "41"}), 20)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CatalogueDatabase]:
    made = opened(sqlite_url(tmp_path))
    yield made
    made.close()


def write(lake: Path, written: list[tuple[Path, pa.Table]]) -> None:
    for path, table in written:
        write_parquet(lake / path, table)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """As the archiver has left it after the changes."""
    write(tmp_path / "lake", items_after(tmp_path / "lake", ITEMS))
    write(tmp_path / "lake", users_after(tmp_path / "lake", USERS))
    return tmp_path / "lake"


@pytest.fixture
def store() -> MemoryFeatureStore:
    """As the worker has left it after the changes."""
    made = MemoryFeatureStore(FEATURES)
    made.change_items(ITEMS)
    made.change_users(USERS)
    return made


def equal(found: dict[str, Comparison]) -> bool:
    assert all((each.checksum == each.found_checksum) is each.equal for each in found.values())
    return all(each.equal for each in found.values())


def test_a_lake_is_imported_with_the_times_of_its_changes(database: CatalogueDatabase, lake: Path) -> None:
    for _ in range(2):
        assert import_tables(database, lake) == Transferred(items=2, deleted=1, users=2)
    assert list(database.items()) == ITEMS
    assert list(database.users()) == USERS
    assert database.outbox().backlog().rows == 0


@pytest.mark.parametrize("is_plain", [False, True])
def test_an_import_may_be_sent_to_the_topics(
    database: CatalogueDatabase, lake: Path, store: MemoryFeatureStore, is_plain: bool
) -> None:
    """As newer changes than those that the store has; `is_plain`: nothing was changed since a data set was imported."""
    if is_plain:
        for path in lake.rglob("*.parquet"):
            if "changed" in path.name:
                path.unlink()
    store.change_items([ItemChange("a", Item("a", "newer in the store"), 50)])
    import_tables(database, lake, publish=True, now_ms=lambda: 100)
    assert database.outbox().backlog().rows == (4 if is_plain else 5)
    with database.outbox().claim(10) as claim:
        for message in claim.messages:
            if message.topic == Topic.ITEMS:
                store.change_items([parse_item_change(orjson.loads(message.value))])
            else:
                store.change_users([parse_user_change(orjson.loads(message.value))])
    assert dict(store.catalogue(["a"]))["a"] == ITEMS[0].item


def test_an_export_is_what_was_imported(database: CatalogueDatabase, lake: Path, tmp_path: Path) -> None:
    import_tables(database, lake)
    assert export_tables(database, tmp_path / "export") == Transferred(items=2, deleted=1, users=2)
    (tmp_path / "other").mkdir()
    other = opened(sqlite_url(tmp_path / "other"))
    import_tables(other, tmp_path / "export")
    assert list(other.items()) == ITEMS
    assert list(other.users()) == USERS
    other.close()
    with pytest.raises(InvalidConfig, match="another folder"):
        export_tables(database, tmp_path / "export")


def test_a_forgotten_user_is_not_imported(database: CatalogueDatabase, lake: Path) -> None:
    mark_forgotten(lake, "u", until_ms=15)
    assert import_tables(database, lake).users == 1
    assert [change.user_id for change in database.users()] == ["v"]


def test_a_folder_without_items_is_refused(database: CatalogueDatabase, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"items\.parquet"):
        import_tables(database, tmp_path / "nothing")


def test_equal_places_have_equal_checksums(
    database: CatalogueDatabase, lake: Path, store: MemoryFeatureStore
) -> None:
    import_tables(database, lake)
    found = verify(database, lake, store)
    assert equal(found)
    assert {name: each.rows for name, each in found.items()} == {
        "items in the lake": 2,
        "users in the lake": 2,
        "items in the store": 3,
        "users in the store": 2,
    }


def test_what_was_never_changed_need_not_be_in_the_store(
    database: CatalogueDatabase, lake: Path, store: MemoryFeatureStore
) -> None:
    database.load_items([replace(change, changed_ms=0) for change in ITEMS])
    database.load_users([replace(change, changed_ms=0) for change in USERS])
    assert equal(verify(database, lake, MemoryFeatureStore(FEATURES)))
    assert equal(verify(database, lake, store))


def test_every_kind_of_difference_is_named(
    database: CatalogueDatabase, lake: Path, store: MemoryFeatureStore
) -> None:
    import_tables(database, lake)
    database.put_items([ItemChange("a", Item("a", "changed"), 40), ItemChange("c", Item("c"), 40)])
    database.put_users([UserChange("v", User("v", {"age": "42"}), 40), UserChange("w", User("w"), 40)])
    store.change_items([ItemChange("d", Item("d"), 50), ItemChange("b", Item("b"), 50)])
    found = verify(database, lake, store)
    assert not equal(found)
    items, users = found["items in the lake"], found["users in the lake"]
    assert (items.missing, items.differing, items.unknown) == (["c"], ["a"], [])
    assert (users.missing, users.differing, users.unknown) == (["w"], ["v"], [])
    items, users = found["items in the store"], found["users in the store"]
    assert (items.missing, items.differing, items.unknown) == (["c"], ["a", "b"], ["d"])
    assert (users.missing, users.differing, users.unknown) == (["w"], ["v"], [])


def test_nothing_of_a_forgotten_user_stays_in_sqlites_files(
    database: CatalogueDatabase, tmp_path: Path
) -> None:
    database.put_users([UserChange("u", User("u", {"motto": "never-to-be-found"}), 1)])
    files = list(tmp_path.glob("catalogue.db*"))
    assert any(b"never-to-be-found" in file.read_bytes() for file in files)
    database.forget_user("u")
    assert not any(b"never-to-be-found" in file.read_bytes() for file in tmp_path.glob("catalogue.db*"))
