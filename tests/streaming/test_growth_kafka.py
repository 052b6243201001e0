"""Growth and gaps on Apache Kafka: an operator adds partitions under traffic; retention overtakes the readers."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.protocol.consumer import OffsetSpec

from infra.local.apache_kafka import ApacheKafka
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.events import Event
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem, impression_events
from recsys.contracts.topic_rules import GROWING
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import count_rows, read_events
from recsys.store.base import Batch, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from streaming.growth import grow
from streaming.lake_writer import archive
from streaming.lake_writer.commit import read_checkpoint
from streaming.log import KafkaSink, KafkaSource, create_topics
from streaming.log.dead_letter import read_dead_letters
from streaming.log.topic_check import check_topics, grow_topics
from streaming.log.topics import connect
from streaming.replay import Position, replay
from streaming.settings import StreamSettings
from streaming.worker import process

pytestmark = [pytest.mark.apache_kafka, pytest.mark.redis, pytest.mark.slow]

T0 = time.time_ns() // 1_000_000 - 3_600_000
Result = TypeVar("Result")


@pytest.fixture
def settings(apache_kafka: ApacheKafka, redis_url: str, tmp_path: Path) -> StreamSettings:
    """The project's topics are new, with four partitions each."""
    kafka = apache_kafka.connection
    with connect(kafka) as admin:
        admin.delete_topics([*map(str, Topic)])
        while {*admin.list_topics()} & {*map(str, Topic)}:
            time.sleep(0.05)
    create_topics(kafka, list(Topic), 4)
    return StreamSettings(
        home=tmp_path,
        redis_url=redis_url,
        kafka_bootstrap=kafka.bootstrap,
        archive_max_seconds=0.5,
        partitions=4,
    )


class Rig:
    """Both readers of one system, each started when it is needed."""

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self.source = KafkaSource(settings.kafka)
        self.admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        self.store = RedisFeatureStore(
            settings.redis_url.get_secret_value(), FEATURES, StoreConfig(settings.partitions)
        )

    def work(self, accept_gap: bool = False) -> dict[str, int]:
        """A worker until everything has been applied. Returns its counters."""
        return _until(
            self._all_applied, lambda stop: process.main(self.settings, stop, accept_gap=accept_gap)
        ).totals()

    def archive(self, accept_gap: bool = False) -> archive.Totals:
        return _until(self._all_archived, lambda stop: archive.main(self.settings, stop, accept_gap))

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
    kafka, events = rig.settings.kafka, clicks(0, 160)
    old = KafkaProducer(bootstrap_servers=kafka.bootstrap, metadata_max_age_ms=600_000)
    send(old, events[:60])
    rig.work()
    rig.archive()
    send(old, events[60:80])  # not read yet
    with connect(kafka) as admin:
        admin.create_partitions({"events": 6})
    send(old, events[80:100])  # it has not noticed
    with closing(old), closing(KafkaProducer(bootstrap_servers=kafka.bootstrap)) as producer:
        send(producer, events[100:140])
        for run in (rig.work, rig.archive):
            with pytest.raises(InvalidConfig, match="recsys topics grow 6"):
                run()
        rules = rig.settings.topic_rules
        (difference,) = check_topics(kafka, 4, rules)
        assert (difference.topic, difference.what, difference.found) == ("events", "partitions", "6")
        rig.settings = rig.settings.model_copy(update={"partitions": 6})
        for run in (rig.work, rig.archive):
            with pytest.raises(InvalidConfig, match="recsys topics grow"):
                run()
        for _ in range(2):  # it may be repeated
            grow(rig.source, rig.store, rig.settings.lake, 6, lambda count: grow_topics(kafka, count))
        assert check_topics(kafka, 6, rules) == []
        send(old, events[140:150])
        send(producer, events[130:150])  # sent again
        send(producer, events[150:], 1)  # by another partitioner
    done, archived = rig.work(), rig.archive()
    assert done["events_applied"] == 100 and done["events_duplicate"] == 20
    assert done["elsewhere"] > 10
    assert archived.archived == 120 and archived.poison == archived.late == 0
    assert_exact(rig, events)


def test_an_accepted_gap_is_repaired_by_a_replay(rig: Rig) -> None:
    """The archiver ran on, so the lake has what the worker missed."""
    kafka, lake = rig.settings.kafka, rig.settings.lake
    events, shown = clicks(0, 120), [_impression(n) for n in range(20)]
    with closing(KafkaSink(kafka)) as sink:

        def append(some: Sequence[Event], impressions: Sequence[Impression]) -> None:
            for event in some:
                sink.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))
            for impression in impressions:
                sink.append(Topic.IMPRESSIONS, impression.user_id, impression_record(impression))
            sink.flush()

        append(events[:60], shown[:10])
        rig.work()
        append(events[60:100], shown[10:15])
        rig.archive()
        lost = _delete_all_but(rig, 2)
        append(events[100:], shown[15:])
        with pytest.raises(InvalidData, match="--accept-gap"):
            rig.work()
        counted = rig.work(accept_gap=True)
        assert sum(n for name, n in counted.items() if name.startswith("lost_")) == lost > 10
        rig.work()  # it has been stored
        rig.archive()
        log_id = rig.source.log_id(Topic.EVENTS)
        sent = replay(lake, sink, Position(lake.parent / "replay.json", log_id)).events
    everything = events + [event for impression in shown for event in impression_events(impression)]
    assert sent == len(everything) == count_rows(lake)
    repaired = rig.work()
    assert repaired["events_applied"] + repaired["events_duplicate"] == sent
    assert repaired["events_applied"] < sent / 2
    assert_exact(rig, everything)


def test_the_archiver_passes_an_accepted_gap(rig: Rig) -> None:
    with closing(KafkaProducer(bootstrap_servers=rig.settings.kafka_bootstrap)) as producer:
        send(producer, clicks(0, 40))
        rig.archive()
        send(producer, clicks(40, 80))
        _delete_all_but(rig, 3)
        with pytest.raises(InvalidData, match="--accept-gap"):
            rig.archive()
        totals = rig.archive(accept_gap=True)
        assert totals.lost > 0
        assert totals.archived == 40 - totals.lost
        _delete_all_but(rig, 0)
        send(producer, clicks(80, 90))
        rig.archive()
    assert count_rows(rig.settings.lake) == 90 - totals.lost


def _impression(n: int) -> Impression:
    features = np.zeros((2, 3), np.float32)
    items = (ShownItem(f"i{n % 5}", 0, 0.5), ShownItem(f"i{(n + 1) % 5}", 1, 0.25))
    return Impression(f"r{n}", f"u{n % 17}", T0 + n, "b1", "f1", items, features)


def _delete_all_but(rig: Rig, kept: int) -> int:
    """As retention does, which here has overtaken the worker. Returns how many records it had not read."""
    first = {where: max(0, end - kept) for where, end in rig.ends().items()}
    with connect(rig.settings.kafka) as admin:
        admin.delete_records(first)
    read = {where: rig.store.checkpoint(where.topic, where.partition) for where in first}
    return sum(max(0, first[where] - stored.offset) for where, stored in read.items() if stored)
