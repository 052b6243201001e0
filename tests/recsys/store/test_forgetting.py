"""Forgetting a user: what `recsys users forget` and the API do."""

from itertools import pairwise
from pathlib import Path

import pytest

from recsys.contracts.changes import UserChange
from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.merges import Links, UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import User
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, mark_forgotten, user_digest
from recsys.lake.lake import write_parquet
from recsys.lake.merges import merges_after, read_merges
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


def test_a_chain_is_forgotten_to_its_end_also_after_a_crash(tmp_path: Path) -> None:
    class Crashing(MemoryFeatureStore):
        left = 2

        def forget_user(self, user_id: str, until_ms: int = 0) -> bool:
            self.left -= 1
            if not self.left:
                raise Unavailable("no Redis")
            return super().forget_user(user_id, until_ms)

    store = Crashing(FEATURES, StoreConfig(1))
    ids = ["a", "b", "c", "u"]
    store.merge_users([UserMerge(a, b, n) for n, (a, b) in enumerate(pairwise(ids))])
    store.change_users([UserChange(id_, User(id_, {"age": "31"}), 1) for id_ in ids])
    nowhere: list[str] = []
    with pytest.raises(Unavailable):
        forget(store, tmp_path, nowhere.append, nowhere.append, "u", 10, RULES)
    forget(store, tmp_path, nowhere.append, nowhere.append, "u", 10, RULES)
    assert not any(store.user(id_).attributes for id_ in ids)


def test_a_merge_after_forgetting_is_kept_in_the_lake(tmp_path: Path) -> None:
    def archive(merge: UserMerge) -> None:
        for path, table in merges_after(tmp_path, [merge]):
            write_parquet(tmp_path / path, table)

    archive(UserMerge("a", "u", 100))
    mark_forgotten(tmp_path, "a", 500)
    archive(UserMerge("a", "u", 400))  # late: forgotten, too
    assert read_merges(tmp_path) == []
    archive(UserMerge("a", "u", 1_000))
    assert read_merges(tmp_path) == [UserMerge("a", "u", 1_000)]
    assert merges_after(tmp_path, [UserMerge("a", "u", 2_000)]) == []


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
