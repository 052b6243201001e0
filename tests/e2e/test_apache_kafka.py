"""What a user does changes the next list, also through the death of Apache Kafka: HTTP → Kafka → worker → Redis → HTTP.

`test_loop` has the same with imports, trainings and every other part killed, in minutes.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from infra.local.apache_kafka import ApacheKafka
from recsys.features.definitions import ENGAGED, FEATURES
from recsys.store.redis import RedisFeatureStore
from serving.assembly import make_app
from serving.settings import ServingSettings
from streaming.settings import StreamSettings
from streaming.worker import process
from tests.bundles import write_tiny_bundle
from tests.serving.waiting import eventually

pytestmark = [pytest.mark.apache_kafka, pytest.mark.redis, pytest.mark.slow]

PATIENCE_S = 60.0


@dataclass
class Loop:
    """An API and a feature worker on one Redis and one Apache Kafka."""

    client: TestClient
    kafka: ApacheKafka
    store: RedisFeatureStore

    def shown(self) -> list[str]:
        answer = self.client.post("/v1/recommendations", json={"user_id": "u1", "k": 10})
        assert answer.status_code == 200
        return [item["item_id"] for item in answer.json()["items"]]

    def click(self, items: list[str]) -> None:
        for item in items:
            event = {"event_id": f"of-{item}", "type": "click", "user_id": "u1", "item_id": item}
            assert self.client.post("/v1/events", json=event).status_code == 202

    def engaged(self) -> list[str]:
        """The user's history in Redis, by the ids of its events."""
        return [entry.event_id for entry in self.store.user("u1").histories.get(ENGAGED.name, ())]


@pytest.fixture
def loop(tmp_path: Path, redis_url: str, apache_jars: Path) -> Iterator[Loop]:
    write_tiny_bundle(tmp_path / "bundles")
    with ApacheKafka(jars=apache_jars) as kafka:
        servers = {"home": tmp_path, "redis_url": redis_url, "kafka_bootstrap": kafka.bootstrap}
        stream = StreamSettings.model_validate(servers)
        serving = ServingSettings.model_validate(
            {**servers, "deadline_ms": 20_000, "store_timeout_ms": 5_000}
        )
        stop, store = threading.Event(), RedisFeatureStore(redis_url, FEATURES)
        worker = threading.Thread(target=process.main, args=(stream, stop), daemon=True)
        worker.start()
        with TestClient(make_app(serving)) as client:
            yield Loop(client, kafka, store)
        stop.set()
        worker.join(PATIENCE_S)
        store.close()


def test_events_change_lists_before_while_and_after_the_broker_is_away(loop: Loop) -> None:
    clicked: list[str] = []

    def click_and_watch() -> None:
        items = loop.shown()[:3]
        loop.click(items)
        clicked.extend(items)

    def is_applied() -> bool:
        return not set(clicked) & set(loop.shown())

    click_and_watch()
    eventually(is_applied, PATIENCE_S)
    loop.kafka.kill()
    click_and_watch()  # accepted: they wait in the API's outbox
    assert set(clicked) & set(loop.shown())
    loop.kafka.start()
    eventually(is_applied, PATIENCE_S)
    click_and_watch()
    eventually(is_applied, PATIENCE_S)
    assert sorted(loop.engaged()) == sorted(f"of-{item}" for item in clicked)
    assert len(clicked) == 9
