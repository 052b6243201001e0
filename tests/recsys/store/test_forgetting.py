"""Forgetting a user: what `recsys users forget` and the API do."""

from pathlib import Path

import pytest

from recsys.contracts.changes import UserChange
from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.merges import Links, UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import User
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, user_digest
from recsys.lake.lake import write_parquet
from recsys.lake.merges import merges_after
from recsys.store.base import StoreConfig
from recsys.store.forgetting import forget
from recsys.store.memory import MemoryFeatureStore

RULES = TimeRules(future_ms=7)


def test_what_was_merged_into_the_user_is_forgotten_as_well(tmp_path: Path) -> None:
    """The lake knows merges that the store has lost, and the other way round."""
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    merges = [UserMerge("anon-1", "u", 1), UserMerge("anon-2", "anon-1", 2), UserMerge("u", "later", 3)]
    for path, table in merges_after(tmp_path, merges[:2]):
        write_parquet(tmp_path / path, table)
    store.merge_users([*merges[1:], UserMerge("anon-3", "u", 4)])
    ids = ["anon-1", "anon-2", "anon-3", "u", "later"]
    store.change_users([UserChange(id_, User(id_, {"age": "31"}), 1) for id_ in ids])
    buried: list[str] = []
    keys: list[str] = []
    assert forget(store, tmp_path, buried.append, keys.append, "u", 10, RULES)
    assert buried[-1] == "u"
    assert sorted(buried) == ["anon-1", "anon-2", "anon-3", "u"]
    assert set(keys) == {merge.key for merge in (*merges, UserMerge("anon-3", "u", 4))}
    assert [bool(store.user(id_).attributes) for id_ in ids] == [False] * 4 + [True]
    assert set(forgotten_users(tmp_path)) == {user_digest(id_) for id_ in ids[:4]}
    assert store.links("later") == Links()


def away(_: str) -> None:
    raise Unavailable("no log")


def test_while_the_log_is_away_nothing_is_done_by_half(tmp_path: Path) -> None:
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    store.change_users([UserChange("u", User("u", {"age": "31"}), 1)])
    with pytest.raises(Unavailable):
        forget(store, tmp_path, away, away, "u", 10, RULES)
    assert store.user("u").attributes
    assert not forgotten_users(tmp_path)

    buried: list[str] = []
    assert forget(store, tmp_path, buried.append, away, "u", 10, RULES)
    assert buried == ["u"]
    assert not store.user("u").attributes
    assert forgotten_users(tmp_path) == {user_digest("u"): 17}


def test_an_id_is_read_as_everywhere(tmp_path: Path) -> None:
    """Another spelling of the same letters is the same user; what is no id is refused."""
    buried: list[str] = []
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    forget(store, tmp_path, buried.append, away, "e\u0301", 10, RULES)
    assert buried == ["\u00e9"]
    with pytest.raises(InvalidEvent):
        forget(store, tmp_path, buried.append, away, "", 10, RULES)
