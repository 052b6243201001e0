"""The fault-injection test at small size, and that its own comparison would notice a fault."""

import orjson
import pytest

from infra.evaluation.fault_injection.database import Database
from infra.evaluation.fault_injection.database.check import Delivered, delivered, wrong_in_store
from infra.evaluation.fault_injection.database.drill import DatabaseDrill, run
from infra.evaluation.fault_injection.database.latency import Recommendable
from infra.evaluation.fault_injection.database.load import Ledger
from infra.local.databases import DatabaseServer
from recsys.contracts.changes import ItemChange
from recsys.contracts.event_log import Record
from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.store.memory import MemoryFeatureStore
from tests.databases import emptied, opened


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
@pytest.mark.database
def test_nothing_is_lost_or_reordered_and_the_control_loses_some(postgresql: DatabaseServer) -> None:
    """The fixture skips the test where PostgreSQL is not installed."""
    result = run(DatabaseDrill.quick(seed=1, database=Database.POSTGRESQL))
    assert result.met, result.figures
    assert result.figures["kills"] == 3, "the broker in memory is frozen"
    assert result.figures["changes"] > 4_000


def topic(*numbers: int) -> Delivered:
    records = [Record("items", 0, n, "i", orjson.dumps({"item": {"title": str(n)}})) for n in numbers]
    return delivered({"i": 3}, records)


def test_each_kind_of_fault_is_seen() -> None:
    assert topic(1, 2, 3) == Delivered(records=3)
    assert topic(1, 2, 1, 2, 3) == Delivered(records=5, repeated=2)
    assert topic(1, 3) == Delivered(records=2, lost=1)
    assert topic(2, 1, 3) == Delivered(records=3, reordered=1)
    assert topic(1, 2, 3, 2) == Delivered(records=4, repeated=1, stale_last=1)
    assert delivered({"i": 3}, []) == Delivered(lost=3, stale_last=1)


@pytest.mark.database
def test_an_item_that_the_store_has_otherwise_is_seen(postgresql: DatabaseServer) -> None:
    database, store = opened(emptied(postgresql.url)), MemoryFeatureStore(FEATURES)
    stored = database.put_items([ItemChange(i, Item(i, "1"), 1) for i in "abc"])
    store.change_items(stored)
    assert wrong_in_store(database, store) == 0
    database.put_items([ItemChange("a", Item("a", "2"), 2), ItemChange("d", Item("d"), 2)])
    database.put_items([ItemChange("b", None, 2)])
    assert wrong_in_store(database, store) == 3
    database.close()


def test_a_change_has_arrived_with_a_later_one_of_its_item() -> None:
    ledger, now = Ledger(), [10.0]
    follower = Recommendable(ledger, lambda: now[0])
    ledger.committed_at = {("i", 1): 9.5, ("i", 2): 9.75, ("j", 1): 9.0}
    follower.apply([("i", Item("i", "2"))], [])
    assert follower.seconds() == [0.5, 0.25]
    now[0] = 11.0
    follower.apply([("i", Item("i", "2")), ("j", Item("j", "1"))], [])
    assert follower.seconds() == [0.5, 0.25, 2.0]
