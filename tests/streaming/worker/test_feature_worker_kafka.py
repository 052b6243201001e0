"""The worker on real servers: two of them share the partitions, one leaves."""

import threading
from pathlib import Path

import msgspec
import pytest

from infra.local.memory_kafka import MemoryKafka
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink, KafkaSource
from streaming.log.dead_letter import read_dead_letters
from streaming.settings import StreamSettings
from streaming.worker.metrics import WorkerMetrics
from streaming.worker.process import main
from tests.streaming.worker.test_feature_worker import assert_holds, make_events, wait_for

PARTITIONS = 4


class Worker(threading.Thread):
    """`main` in a thread."""

    def __init__(self, settings: StreamSettings) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self.stop = threading.Event()
        self.metrics = WorkerMetrics()

    def run(self) -> None:
        self.metrics = main(self._settings, self.stop)


@pytest.mark.kafka
@pytest.mark.redis
def test_two_workers_share_the_work_and_one_takes_over(
    kafka_broker: MemoryKafka, redis_url: str, tmp_path: Path
) -> None:
    settings = StreamSettings(
        home=tmp_path, redis_url=redis_url, kafka_bootstrap=kafka_broker.bootstrap, partitions=PARTITIONS
    )
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(PARTITIONS))
    sink, source = KafkaSink(kafka_broker.connection), KafkaSource(kafka_broker.connection)
    events = make_events(400)

    def send(first: int, last: int) -> None:
        for event in events[first:last]:
            sink.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))
        sink.flush(30)

    def caught_up() -> bool:
        ends = {p: source.end_offset(Topic.EVENTS, p) for p in range(PARTITIONS)}
        stored = {p: store.checkpoint(Topic.EVENTS, p) for p in range(PARTITIONS)}
        return all((s.offset if s else 0) >= ends[p] for p, s in stored.items())

    first, second = Worker(settings), Worker(settings)
    first.start()
    send(0, 100)
    sink.append(Topic.EVENTS, "u1", b"poison")
    assert wait_for(caught_up, 120)
    second.start()
    send(100, 200)
    assert wait_for(caught_up, 120)
    first.stop.set()
    first.join(60)
    send(200, 400)
    assert wait_for(caught_up, 120)
    second.stop.set()
    second.join(60)
    assert_holds(store, events)
    applied = sum(worker.metrics.totals().get("events_applied", 0) for worker in (first, second))
    assert applied == 400
    assert [letter.kind for letter in read_dead_letters(source)] == ["json"]
    source.close()
    sink.close()
    store.close()
