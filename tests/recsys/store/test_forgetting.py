"""Forgetting a user: what `recsys users forget` and the API do."""

from pathlib import Path

import pytest

from recsys.contracts.changes import UserChange
from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import User
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, user_digest
from recsys.store.base import StoreConfig
from recsys.store.forgetting import forget
from recsys.store.memory import MemoryFeatureStore

RULES = TimeRules(future_ms=7)


def away(_: str) -> None:
    raise Unavailable("no log")


def test_while_the_log_is_away_nothing_is_done_by_half(tmp_path: Path) -> None:
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    store.change_users([UserChange("u", User("u", {"age": "31"}), 1)])
    with pytest.raises(Unavailable):
        forget(store, tmp_path, away, "u", 10, RULES)
    assert store.user("u").attributes
    assert not forgotten_users(tmp_path)

    buried: list[str] = []
    assert forget(store, tmp_path, buried.append, "u", 10, RULES)
    assert buried == ["u"]
    assert not store.user("u").attributes
    assert forgotten_users(tmp_path) == {user_digest("u"): 17}


def test_an_id_is_read_as_everywhere(tmp_path: Path) -> None:
    """Another spelling of the same letters is the same user; what is no id is refused."""
    buried: list[str] = []
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    forget(store, tmp_path, buried.append, "e\u0301", 10, RULES)
    assert buried == ["\u00e9"]
    with pytest.raises(InvalidEvent):
        forget(store, tmp_path, buried.append, "", 10, RULES)
