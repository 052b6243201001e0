"""A master dies with writes that no replica has: the worker reads from Kafka again what asynchronous replication lost.

Replication is cut before the second half of the log, so the loss is certain; events that are applied twice measure it.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from infra.local.memory_kafka import MemoryKafka
from infra.local.redis_replicas import LocalRedisCluster, LocalRedisSentinel, ReplicatedRedis
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import Event
from recsys.contracts.types import Item, Topic, User
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink, KafkaSource
from streaming.settings import StreamSettings
from tests.streaming.worker.test_feature_worker import assert_holds, make_events, wait_for
from tests.streaming.worker.test_feature_worker_kafka import Worker

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.redis]

PARTITIONS = 4
EVERY = [(t, p) for t in (Topic.EVENTS, Topic.ITEMS, Topic.USERS) for p in range(PARTITIONS)]
CATALOGUE = "recsys:{c}:catalogue"  # on the cluster, its master has the partitions 1 and 2, but not 0 and 3


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Iterator[ReplicatedRedis]:
    with LocalRedisCluster(replicas=1) if request.param == "cluster" else LocalRedisSentinel() as started:
        yield started


def test_what_a_failover_loses_is_read_from_the_log_again(
    servers: ReplicatedRedis, kafka_broker: MemoryKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = kafka_broker.connection
    settings = StreamSettings(
        home=tmp_path, redis_url=servers.url, kafka_bootstrap=kafka_broker.bootstrap, partitions=PARTITIONS
    )
    worker, events = Worker(settings), make_events(600)
    store = RedisFeatureStore(servers.url, FEATURES, StoreConfig(PARTITIONS))
    with closing(KafkaSink(kafka)) as sink, closing(KafkaSource(kafka)) as source, closing(store):

        def caught_up() -> bool:
            try:
                stored = {where: store.checkpoint(*where) for where in EVERY}
            except Unavailable:
                return False
            return all((c.offset if c else 0) >= source.end_offset(*where) for where, c in stored.items())

        worker.start()
        send(sink, events[:300], 1)
        assert wait_for(caught_up, 120)
        master = servers.master_of(CATALOGUE)
        servers.cut(master)
        send(sink, events[300:], 2)
        assert wait_for(caught_up, 120)
        servers.fail_over(master)
        assert wait_for(caught_up, 120)
        servers.rejoin(master)
        assert servers.master_of(CATALOGUE) is not master
        worker.stop.set()
        worker.join(60)

        assert_holds(store, events)
        assert {item.title for _, item in store.catalogue() if item} == {"2"}
        assert [store.user(f"v{n}").attributes for n in range(12)] == [{"at": "2"}] * 12
        totals = worker.metrics.totals()
        lost = totals["events_applied"] - len(events)
        assert lost > 0
        assert totals["outages"] > 0
        with capsys.disabled():
            print(f"\nthe failover took back {lost} of {len(events)} events")  # noqa: T201


def send(sink: KafkaSink, events: list[Event], at: int) -> None:
    """The events, and with them a change of every item and of users without events."""
    for event in events:
        sink.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))
    for n in range(12):
        item = ItemChange(f"i{n}", Item(f"i{n}", str(at)), at)
        sink.append(Topic.ITEMS, item.item_id, msgspec.json.encode(item.to_dict()))
        user = UserChange(f"v{n}", User(f"v{n}", {"at": str(at)}), at)
        sink.append(Topic.USERS, user.user_id, msgspec.json.encode(user.to_dict()))
    sink.flush(30)
