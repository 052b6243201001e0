"""Growth on Apache Kafka: an operator adds partitions under traffic."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.protocol.consumer import OffsetSpec

from infra.local.apache_kafka import ApacheKafka
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.topic_rules import GROWING
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import read_events
from recsys.store.base import Batch, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from streaming.growth import grow
from streaming.lake_writer import archive
from streaming.lake_writer.commit import read_checkpoint
from streaming.log import KafkaSource, create_topics
from streaming.log.dead_letter import read_dead_letters
from streaming.log.topic_check import check_topics, grow_topics
from streaming.log.topics import connect
from streaming.settings import StreamSettings
from streaming.worker import feature_worker

pytestmark = [pytest.mark.apache_kafka, pytest.mark.redis, pytest.mark.slow]

T0 = time.time_ns() // 1_000_000 - 3_600_000
Result = TypeVar("Result")


@pytest.fixture
def settings(apache_kafka: ApacheKafka, redis_url: str, tmp_path: Path) -> StreamSettings:
    """The project's topics are new, with four partitions each."""
    bootstrap = apache_kafka.bootstrap
    with connect(bootstrap) as admin:
        admin.delete_topics([*map(str, Topic)])
        while {*admin.list_topics()} & {*map(str, Topic)}:
            time.sleep(0.05)
    create_topics(bootstrap, list(Topic), 4)
    return StreamSettings(
        home=tmp_path, redis_url=redis_url, kafka_bootstrap=bootstrap, archive_max_seconds=0.5, partitions=4
    )


class Rig:
    """Both readers of one system, each started when it is needed."""

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self.source = KafkaSource(settings.kafka_bootstrap)
        self.admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        self.store = RedisFeatureStore(
            settings.redis_url.get_secret_value(), FEATURES, StoreConfig(settings.partitions)
        )

    def work(self) -> dict[str, int]:
        """A worker until everything has been applied. Returns its counters."""
        run = lambda stop: feature_worker.main(self.settings, stop)  # noqa: E731
        return _until(self._all_applied, run).totals()

    def archive(self) -> archive.Totals:
        return _until(self._all_archived, lambda stop: archive.main(self.settings, stop))

    def _all_applied(self) -> bool:
        return self._behind(lambda topic, number: self.store.checkpoint(topic, number)) == 0

    def _all_archived(self) -> bool:
        places = read_checkpoint(self.settings.lake)
        return self._behind(lambda topic, number: places.get(f"{topic}/{number}")) == 0

    def _behind(self, place: Callable[[str, int], Any]) -> int:
        behind = 0
        for (topic, number), end in self.ends().items():
            found = place(topic, number)
            behind += end - (found.offset if found else 0)
        return behind

    def ends(self) -> dict[TopicPartition, int]:
        every = {
            TopicPartition(t, p): OffsetSpec.LATEST for t in GROWING for p in range(self.source.partitions(t))
        }
        found = self.admin.list_partition_offsets(every)
        return {where: place.offset for where, place in found.items()}


@pytest.fixture
def rig(settings: StreamSettings) -> Iterator[Rig]:
    rig = Rig(settings)
    with closing(rig.source), closing(rig.admin), closing(rig.store):
        yield rig


def _until(done: Callable[[], bool], run: Callable[[threading.Event], Result]) -> Result:
    """Run until `done`; raises what `run` raises."""
    stop, results, errors = threading.Event(), list[Result](), list[Exception]()

    def target() -> None:
        try:
            results.append(run(stop))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        while thread.is_alive() and not done():
            time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def clicks(first: int, last: int) -> list[Event]:
    return [
        Event(f"e{n}", EventType.CLICK, f"u{n % 17}", f"i{n % 5}", T0 + n, context={"categories": "A|B"})
        for n in range(first, last)
    ]


def send(producer: Any, events: Iterable[Event], partition: int | None = None) -> None:
    """As another program does it, by the partitions that its client has found."""
    for event in events:
        value = msgspec.json.encode(event.to_dict())
        producer.send(Topic.EVENTS, value, event.user_id.encode(), partition=partition)
    producer.flush()


def assert_exact(rig: Rig, events: Sequence[Event]) -> None:
    """Store and lake have each event once; nothing was refused."""
    memory = MemoryFeatureStore(FEATURES, StoreConfig(1))
    epoch = memory.claim("all", 0, "log").epoch
    memory.apply(Batch("all", 0, epoch, 0, len(events), T0, range(len(events)), events))
    for user in {event.user_id for event in events}:
        assert rig.store.user(user) == memory.user(user)
    assert dict(rig.store.all_items()) == dict(memory.all_items())
    assert {e.event_id for e in read_events(rig.settings.lake)} == {e.event_id for e in events}
    assert list(read_dead_letters(rig.source)) == []


def test_growth_under_traffic_loses_and_refuses_nothing(rig: Rig) -> None:
    bootstrap, events = rig.settings.kafka_bootstrap, clicks(0, 160)
    old = KafkaProducer(bootstrap_servers=bootstrap, metadata_max_age_ms=600_000)
    send(old, events[:60])
    rig.work()
    rig.archive()
    send(old, events[60:80])  # not read yet
    with connect(bootstrap) as admin:
        admin.create_partitions({"events": 6})
    send(old, events[80:100])  # it has not noticed
    with closing(old), closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        send(producer, events[100:140])
        for run in (rig.work, rig.archive):
            with pytest.raises(InvalidConfig, match="recsys topics grow 6"):
                run()
        rules = rig.settings.topic_rules
        (difference,) = check_topics(bootstrap, 4, rules)
        assert (difference.topic, difference.what, difference.found) == ("events", "partitions", "6")
        rig.settings = rig.settings.model_copy(update={"partitions": 6})
        for run in (rig.work, rig.archive):
            with pytest.raises(InvalidConfig, match="recsys topics grow"):
                run()
        for _ in range(2):  # it may be repeated
            grow(rig.source, rig.store, rig.settings.lake, 6, lambda count: grow_topics(bootstrap, count))
        assert check_topics(bootstrap, 6, rules) == []
        send(old, events[140:150])
        send(producer, events[130:150])  # sent again
        send(producer, events[150:], 1)  # by another partitioner
    done, archived = rig.work(), rig.archive()
    assert done["events_applied"] == 100 and done["events_duplicate"] == 20
    assert done["elsewhere"] > 10
    assert archived.archived == 120 and archived.poison == archived.late == 0
    assert_exact(rig, events)
