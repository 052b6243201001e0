"""Catalogue changes with real parts: an item's way from API or Kafka to Redis, index and lake, and out again; and a
user's. No time is measured."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

from infra.local.memory_kafka import MemoryKafka
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.types import Item, Topic, User
from recsys.datasets.catalogue import items_path, read_users, users_path
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.models.attributes import hash_attributes
from recsys.store.redis import RedisFeatureStore
from serving.assembly import make_app
from serving.settings import ServingSettings
from streaming.lake_writer import archive
from streaming.log import KafkaSink
from streaming.settings import StreamSettings
from streaming.worker import process
from tests.bundles import DIMENSION, tiny_vectors, write_tiny_bundle
from tests.serving.waiting import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

BUCKETS = 64
NAMESPACE = "catalogue"
COLD = {"item_id": "cold", "title": "Cold", "categories": ["new-wave"], "titles": {"de": "Kalt"}}


@dataclass
class Loop:
    """An API, a feature worker and an archiver on one Redis and one broker."""

    client: TestClient
    sink: KafkaSink
    store: RedisFeatureStore
    lake: Path

    def channels_of(self, item_id: str) -> list[str]:
        """Which recall channels find the item for a user who has clicked on `item-000`; none: it is not shown."""
        body = {"user_id": "u1", "k": 40}
        shown = self.client.post("/v1/recommendations", json=body).json()["items"]
        return next((item["channels"] for item in shown if item["item_id"] == item_id), [])

    def in_lake(self, item_id: str) -> bool:
        path = self.lake / "items" / "items.parquet"
        return path.exists() and item_id in {item.item_id for item in read_items(path)}


@pytest.fixture(params=["redis_url"])
def redis(request: pytest.FixtureRequest) -> str:
    """The URL of one server, or of a cluster for an account that may do what the project needs."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else str(found(NAMESPACE))


@pytest.fixture
def loop(tmp_path: Path, redis: str, kafka_broker: MemoryKafka) -> Iterator[Loop]:
    """The bundle's attribute table gives `COLD` the vector of `item-000`."""
    attributes = np.zeros((1 + BUCKETS, DIMENSION), np.float32)
    cold = Item("cold", "Cold", ("new-wave",))
    attributes[hash_attributes([cold], BUCKETS)] = tiny_vectors(1)[0]
    attributes[0] = 0
    write_tiny_bundle(tmp_path / "bundles", attributes=attributes)
    stream = StreamSettings(
        home=tmp_path,
        redis_url=redis,
        redis_namespace=NAMESPACE,
        kafka_bootstrap=kafka_broker.bootstrap,
        archive_max_seconds=0.2,
    )
    serving = ServingSettings(
        home=tmp_path,
        redis_url=redis,
        redis_namespace=NAMESPACE,
        kafka_bootstrap=kafka_broker.bootstrap,
        deadline_ms=20_000,
        store_timeout_ms=5_000,
        result_cache_ms=0,
    )
    stop = threading.Event()
    threads = [
        threading.Thread(target=main, args=(stream, stop), daemon=True)
        for main in (process.main, archive.main)
    ]
    sink = KafkaSink(kafka_broker.connection)
    store = RedisFeatureStore(redis, FEATURES, namespace=NAMESPACE)
    for thread in threads:
        thread.start()
    with TestClient(make_app(serving)) as client:
        yield Loop(client, sink, store, stream.lake)
    stop.set()
    for thread in threads:
        thread.join(60)
    sink.close()
    store.close()


def test_a_new_item_is_recommended_after_its_write_and_not_after_its_deletion(loop: Loop) -> None:
    event = {"type": "click", "user_id": "u1", "item_id": "item-000"}
    assert loop.client.post("/v1/events", json=event).status_code == 202
    eventually(lambda: bool(loop.store.user("u1").histories))
    assert loop.channels_of("cold") == []

    assert loop.client.post("/v1/items", json=COLD).status_code == 202
    # found by the vector of its attributes and default title in the index, and as a fresh item
    eventually(lambda: {"two_tower", "fresh"} <= set(loop.channels_of("cold")))
    assert dict(loop.store.catalogue(["cold"]))["cold"] is not None
    eventually(lambda: loop.in_lake("cold"))
    assert [item.titles for item in read_items(items_path(loop.lake)) if item.titles] == [{"de": "Kalt"}]

    assert loop.client.delete("/v1/items/cold").status_code == 204
    eventually(lambda: loop.channels_of("cold") == [])
    assert dict(loop.store.catalogue(["cold"])) == {"cold": None}
    eventually(lambda: not loop.in_lake("cold"))


def test_any_producer_may_change_items_through_kafka(loop: Loop) -> None:
    def send(change: ItemChange) -> None:
        loop.sink.append(Topic.ITEMS, change.item_id, msgspec.json.encode(change.to_dict()))
        loop.sink.flush(30)

    send(ItemChange("cold", Item("cold", "Cold", ("new-wave",), created_ms=time.time_ns() // 1_000_000), 5))
    eventually(lambda: "fresh" in loop.channels_of("cold"))
    eventually(lambda: loop.in_lake("cold"))
    send(ItemChange("cold", None, 6))
    eventually(lambda: loop.channels_of("cold") == [])
    eventually(lambda: not loop.in_lake("cold"))


@pytest.mark.parametrize("redis", ["redis_url", "redis_cluster"], indirect=True)
def test_user_attributes_reach_ranker_and_lake_and_are_deleted(loop: Loop) -> None:
    def age() -> float:
        """As the ranker reads it."""
        answer = loop.client.post("/v1/recommendations?explain=true", json={"user_id": "u7"}).json()
        return float(answer["funnel"]["shown"][0]["features"]["user_age"])

    def in_lake() -> dict[str, str] | None:
        users = read_users(loop.lake) if users_path(loop.lake).exists() else []
        return next((dict(user.attributes) for user in users if user.user_id == "u7"), None)

    unknown = age()
    assert loop.client.put("/v1/users/u7", json={"attributes": {"age": "31"}}).status_code == 202
    assert age() == 31 != unknown  # the very next request
    eventually(lambda: in_lake() == {"age": "31"})

    change = UserChange("u7", User("u7", {"age": "32", "shoe size": "44"}), 2_000_000_000_000)
    loop.sink.append(Topic.USERS, "u7", msgspec.json.encode(change.to_dict()))  # any producer may
    loop.sink.flush(30)
    eventually(lambda: age() == 32)
    eventually(lambda: in_lake() == {"age": "32", "shoe size": "44"})

    gone = UserChange("u7", None, 2_000_000_000_001)
    loop.sink.append(Topic.USERS, "u7", msgspec.json.encode(gone.to_dict()))
    loop.sink.flush(30)
    eventually(lambda: age() == unknown)
    eventually(lambda: in_lake() is None)
