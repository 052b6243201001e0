"""Archiver, compaction and import rewrite the same tables concurrently without losing changes."""

import importlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.types import Item, Topic, User
from recsys.datasets.base import Dataset
from recsys.datasets.catalogue import items_path, read_users, users_path, users_table
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset
from recsys.items.item_table import read_items
from recsys.lake.commit import rewriting
from recsys.lake.forget import mark_forgotten
from recsys.lake.lake import write_parquet
from streaming.lake_writer import commit as committing
from streaming.lake_writer.archive import Archiver
from streaming.lake_writer.compact import compact
from tests.memory_event_log import MemoryEventLog
from tests.recsys.datasets import samples

CHANGED_MS = 1_700_000_000_000
NEW_USER, NEW_ITEM = User("put", {"age": "31"}), Item("put", "Put")


def archive(lake: Path) -> None:
    """An archiver that makes a put of a user and one of an item part of the lake."""
    log = MemoryEventLog()
    user, item = UserChange("put", NEW_USER, CHANGED_MS), ItemChange("put", NEW_ITEM, CHANGED_MS)
    log.append(Topic.USERS, "put", msgspec.json.encode(user.to_dict()))
    log.append(Topic.ITEMS, "put", msgspec.json.encode(item.to_dict()))
    archiver = Archiver(log.source(), lake)
    while archiver.step(0.0):
        pass
    archiver.flush()


@pytest.fixture
def in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, str, Callable[[], None]], threading.Thread]:
    """Begin something in a thread just before a function's first call, and give it the time to come through."""

    def begin(module: str, function: str, other: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=other)
        original = getattr(importlib.import_module(module), function)

        def interrupted(*arguments: object) -> object:
            if thread.ident is None:
                thread.start()
                thread.join(0.5)  # it waits for the lock; without one it would be through by now
            return original(*arguments)

        monkeypatch.setattr(f"{module}.{function}", interrupted)
        return thread

    return begin


def lake_of_forgotten(lake: Path) -> Path:
    write_parquet(users_path(lake), users_table([User("gone"), User("stays")]))
    mark_forgotten(lake, "gone", CHANGED_MS)
    return lake


def test_a_write_during_a_compaction_stays(
    tmp_path: Path, in_the_middle: Callable[[str, str, Callable[[], None]], threading.Thread]
) -> None:
    lake = lake_of_forgotten(tmp_path)
    archiving = in_the_middle("streaming.lake_writer.compact", "write_parquet", lambda: archive(lake))
    compact(lake)
    archiving.join()
    assert read_users(lake) == [NEW_USER, User("stays")]


def test_a_write_during_an_import_stays(
    tmp_path: Path, in_the_middle: Callable[[str, str, Callable[[], None]], threading.Thread]
) -> None:
    dataset, lake = open_dataset(samples.movielens_100k(tmp_path / "m")), tmp_path / "lake"
    archiving = in_the_middle("recsys.datasets.importer", "write_parquet", lambda: archive(lake))
    import_dataset(dataset, lake)
    archiving.join()
    assert NEW_ITEM in read_items(items_path(lake))
    assert len(read_items(items_path(lake))) > 1
    assert NEW_USER in read_users(lake)
    assert len(read_users(lake)) > 1


def test_an_import_during_a_commit_stays(
    tmp_path: Path, in_the_middle: Callable[[str, str, Callable[[], None]], threading.Thread]
) -> None:
    dataset, lake = open_dataset(samples.movielens_100k(tmp_path / "m")), tmp_path / "lake"
    importing = in_the_middle("streaming.lake_writer.archive", "commit", lambda: _import(dataset, lake))
    archive(lake)
    importing.join()
    assert NEW_USER in read_users(lake)
    assert len(read_users(lake)) > 1


def _import(dataset: Dataset, lake: Path) -> None:
    import_dataset(dataset, lake)


def test_the_table_of_a_killed_archiver_does_not_bring_forgotten_users_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(lake: Path) -> None:
        raise KeyboardInterrupt

    lake = lake_of_forgotten(tmp_path)
    committing.recover(lake)
    with monkeypatch.context() as patch, rewriting(lake):
        patch.setattr("recsys.lake.commit._finish", killed)
        table = users_table([NEW_USER, User("gone"), User("stays")])
        with pytest.raises(KeyboardInterrupt):
            committing.commit(lake, [(users_path(lake).relative_to(lake), table)], {})
    compact(lake)
    committing.recover(lake)
    assert read_users(lake) == [NEW_USER, User("stays")]
