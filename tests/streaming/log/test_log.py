"""Sink and source on a real broker that is killed, replaced and refuses records."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from infra.local.memory_kafka import MemoryKafka
from infra.local.process import free_port
from recsys.contracts.errors import InvalidConfig, InvalidData, InvalidEvent, LogReplaced, Unavailable
from recsys.contracts.event_log import Record, partition_of
from recsys.contracts.types import MS_PER_DAY, Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log import KafkaSink, KafkaSource, create_topics, reachable, topics

pytestmark = pytest.mark.kafka
PARTITIONS = 4
PATIENCE_S = 60.0


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def everything(kafka: KafkaConnection, topic: str) -> list[Record]:
    """All records of a topic, up to the ends that it has now."""
    source = KafkaSource(kafka)
    try:
        ends = {p: source.end_offset(topic, p) for p in range(source.partitions(topic))}
        for partition in ends:
            source.seek(topic, partition, 0)
        records: list[Record] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(records) < sum(ends.values()) and time.monotonic() < deadline:
            records += source.poll(0.2, 10_000)
        return records
    finally:
        source.close()


def test_the_append_time_is_never_in_the_future(kafka_broker: MemoryKafka) -> None:
    create_topics(kafka_broker.connection, ["clocks"], 1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    producer.send("clocks", b"{}", timestamp_ms=time.time_ns() // 1_000_000 + 2 * MS_PER_DAY)
    producer.close()
    (record,) = everything(kafka_broker.connection, "clocks")
    assert record.append_time_ms <= time.time_ns() // 1_000_000


# --- the sink ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_records_survive_an_outage_of_the_broker(kafka_broker: MemoryKafka, closing: ExitStack) -> None:
    sink = KafkaSink(kafka_broker.connection, max_outage_s=PATIENCE_S)
    closing.callback(sink.close)
    sink.append(Topic.EVENTS, "u", b"before")
    sink.flush(PATIENCE_S)
    kafka_broker.kill()
    for n in range(100):
        sink.append(Topic.EVENTS, f"u{n % 5}", str(n).encode())
    with pytest.raises(Unavailable, match="not acknowledged"):
        sink.flush(0.5)
    kafka_broker.start()
    sink.flush(PATIENCE_S)
    records = everything(kafka_broker.connection, Topic.EVENTS)
    # The broker in memory forgot "before"; what was accepted while it was away is there, in order for each key.
    assert {int(r.value) for r in records} == set(range(100))
    for key in {r.key for r in records}:
        values = [int(r.value) for r in records if r.key == key]
        assert list(dict.fromkeys(values)) == sorted(set(values))


def test_the_idempotent_producer_is_replaced_when_the_log_was_lost(
    kafka_broker: MemoryKafka, closing: ExitStack
) -> None:
    """Nothing waits while the broker dies: the old producer's sequence numbers mean nothing to the new log."""
    sink = KafkaSink(kafka_broker.connection)
    closing.callback(sink.close)
    for life in range(3):
        for n in range(20):
            sink.append(Topic.EVENTS, "u", f"{life}-{n}".encode())
        sink.flush(PATIENCE_S)
        found = [r.value.decode() for r in everything(kafka_broker.connection, Topic.EVENTS)]
        assert list(dict.fromkeys(found)) == [f"{life}-{n}" for n in range(20)]
        kafka_broker.kill()
        kafka_broker.start()


@pytest.mark.slow
def test_a_sink_can_be_created_before_the_broker_runs(closing: ExitStack) -> None:
    broker = MemoryKafka()
    sink = KafkaSink(broker.connection, max_outage_s=PATIENCE_S)
    closing.callback(sink.close)
    sink.append(Topic.EVENTS, "u", b"early")
    with broker:
        sink.flush(PATIENCE_S)
        assert [r.value for r in everything(broker.connection, Topic.EVENTS)] == [b"early"]


def test_without_a_broker_the_sink_refuses_records_and_reports_what_it_lost() -> None:
    sink = KafkaSink(KafkaConnection(f"127.0.0.1:{free_port()}"), max_outage_s=0.2)
    sink.append(Topic.EVENTS, "u", b"x")
    time.sleep(0.3)
    with pytest.raises(Unavailable, match="has been away"):
        sink.append(Topic.EVENTS, "u", b"x")
    with pytest.raises(Unavailable, match="1 records not acknowledged"):
        sink.close(timeout_s=0.1)


def test_the_queue_is_bounded() -> None:
    sink = KafkaSink(KafkaConnection(f"127.0.0.1:{free_port()}"), max_pending=3)
    for _ in range(3):
        sink.append(Topic.EVENTS, "u", b"x")
    with pytest.raises(Unavailable, match="3 records wait"):
        sink.append(Topic.EVENTS, "u", b"x")
    with pytest.raises(Unavailable, match="3 records not acknowledged"):
        sink.close(timeout_s=0.1)


def test_only_the_record_that_is_too_large_is_refused(
    kafka: KafkaConnection, new_topic: Callable[..., str]
) -> None:
    topic, sink = new_topic(), KafkaSink(kafka)
    sink.append(topic, "u", b"1")
    sink.flush()
    with pytest.raises(InvalidEvent, match="exceeds Kafka's limit"):
        sink.append(topic, "u", b"x" * 2_000_000)
    sink.append(topic, "u", b"2")
    sink.close()
    assert [r.value for r in everything(kafka, topic)] == [b"1", b"2"]
    with pytest.raises(Unavailable, match="closed"):
        sink.append(topic, "u", b"3")


def test_threads_may_share_a_sink(kafka: KafkaConnection, new_topic: Callable[..., str]) -> None:
    topic, sink = new_topic(), KafkaSink(kafka)

    def send(name: str) -> None:
        for n in range(200):
            sink.append(topic, name, str(n).encode())

    threads = [threading.Thread(target=send, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    records = everything(kafka, topic)
    for n in range(4):
        assert [int(r.value) for r in records if r.key == f"t{n}"] == list(range(200))


# --- sources ----------------------------------------------------------------------------------------------------


def test_a_source_detects_a_replaced_log(kafka_broker: MemoryKafka, closing: ExitStack) -> None:
    sink, source = KafkaSink(kafka_broker.connection), KafkaSource(kafka_broker.connection)
    closing.callback(sink.close)
    closing.callback(source.close)
    partition = partition_of("u", PARTITIONS)
    sink.append(Topic.EVENTS, "u", b"old")
    sink.flush(PATIENCE_S)
    first = source.log_id(Topic.EVENTS)
    source.seek(Topic.EVENTS, partition, 0)
    eventually(lambda: [r.value for r in source.poll(0.2, 10)] == [b"old"], "the record")
    for _ in range(5):  # the new log will be shorter than what was probed here
        sink.append(Topic.EVENTS, "u", b"old")
    sink.flush(PATIENCE_S)
    assert source.end_offset(Topic.EVENTS, partition) == 6
    kafka_broker.kill()
    kafka_broker.start()
    sink.append(Topic.EVENTS, "u", b"new")
    sink.flush(PATIENCE_S)

    def replaced() -> bool:
        try:
            assert source.poll(0.2, 10) == [], "nothing of the new log before it was sought"
        except LogReplaced:
            return True
        except Unavailable:
            pass
        return False

    eventually(replaced, "LogReplaced")
    assert source.log_id(Topic.EVENTS) != first
    assert source.end_offset(Topic.EVENTS, partition) >= 1
    source.seek(Topic.EVENTS, partition, 0)
    eventually(lambda: b"new" in [r.value for r in source.poll(0.2, 10)], "the new log's record")


def test_expired_offsets_are_an_error_except_offset_0(
    kafka: KafkaConnection, new_topic: Callable[..., str], closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker in memory never expires anything, so its answers are replaced here."""
    source, topic = KafkaSource(kafka), new_topic(1)
    where = TopicPartition(kafka.in_kafka(topic), 0)
    closing.callback(source.close)
    consumer = source._consumer
    monkeypatch.setattr(consumer, "beginning_offsets", lambda partitions, _: dict.fromkeys(partitions, 40))
    for asked in (0, 7):

        def out_of_range(asked: int = asked, **options: object) -> None:
            raise OffsetOutOfRangeError({where: asked})

        source.seek(topic, 0, asked)
        monkeypatch.setattr(consumer, "poll", out_of_range)
        if asked:
            with pytest.raises(InvalidData, match="retention"):
                source.poll(0.1, 10)
        else:
            assert source.poll(0.1, 10) == []
            assert consumer.position(where) == 40


def test_lag_counts_unread_records(
    kafka: KafkaConnection, new_topic: Callable[..., str], closing: ExitStack
) -> None:
    topic, sink, source = new_topic(1), KafkaSink(kafka), KafkaSource(kafka)
    closing.callback(source.close)
    assert source.lag(topic, 0) is None
    for _ in range(10):
        sink.append(topic, "u", b"x")
    sink.close()
    source.seek(topic, 0, 0)
    read = 0
    while read < 6:
        read += len(source.poll(0.2, 6 - read))
    assert source.lag(topic, 0) == 4


def test_without_a_broker_a_source_raises() -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    assert not reachable(KafkaConnection(bootstrap), 0.2)
    with pytest.raises(Unavailable, match=bootstrap):
        KafkaSource(KafkaConnection(bootstrap), bootstrap_timeout_ms=300)


def test_a_missing_topic_is_an_error(kafka: KafkaConnection, closing: ExitStack) -> None:
    source = KafkaSource(kafka)
    closing.callback(source.close)
    with pytest.raises(Unavailable, match=r"no topic tests\.nowhere"):
        source.partitions("nowhere")


def test_another_number_of_partitions_is_said(kafka: KafkaConnection, new_topic: Callable[..., str]) -> None:
    topic = new_topic(2)
    assert create_topics(kafka, [topic], 2) == []
    with pytest.raises(InvalidConfig, match="RECSYS_PARTITIONS=2, or run `recsys topics grow 3`"):
        create_topics(kafka, [topic], 3)
    with pytest.raises(InvalidConfig, match="recsys topics grow 2`; then set RECSYS_PARTITIONS=2"):
        create_topics(kafka, [topic], 1)


def test_processes_that_start_together_create_the_topics_once(
    kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"together-{n}-{time.monotonic_ns()}" for n in range(3)]
    seen = topics._partition_counts

    def late(admin: Any) -> dict[str, int]:
        """What was there before the other process created a topic."""
        found = seen(admin)
        monkeypatch.setattr(topics, "_partition_counts", seen)
        create_topics(kafka, names[1:2], 2)
        return found

    monkeypatch.setattr(topics, "_partition_counts", late)
    create_topics(kafka, names, 2)
    with topics.connect(kafka) as admin:
        assert {name: seen(admin).get(kafka.in_kafka(name)) for name in names} == dict.fromkeys(names, 2)
    monkeypatch.setattr(topics, "_partition_counts", late)
    with pytest.raises(InvalidConfig, match="together"):
        create_topics(kafka, names, 3)


def test_no_client_creates_a_topic_by_asking_for_it(kafka: KafkaConnection, closing: ExitStack) -> None:
    topic = f"unknown-{time.monotonic_ns()}"
    sink, source = KafkaSink(kafka), KafkaSource(kafka)
    closing.callback(source.close)
    with suppress(Unavailable):
        sink.append(topic, "u", b"{}")
    with suppress(Unavailable):  # it may have taken the record, and never gets rid of it
        sink.close(1.0)
    with pytest.raises(Unavailable, match="no topic"):
        source.partitions(topic)
    with topics.connect(kafka) as admin:
        assert topic not in topics._partition_counts(admin)


def test_only_offsets_that_changed_are_committed(
    kafka: KafkaConnection,
    new_topic: Callable[..., str],
    closing: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = new_topic()
    source = KafkaSource(kafka, group_id="lag")
    closing.callback(source.close)
    sent: list[dict[int, int]] = []
    commit = source._consumer.commit_async

    def note(offsets: dict[TopicPartition, OffsetAndMetadata]) -> object:
        sent.append({where.partition: found.offset for where, found in offsets.items()})
        return commit(offsets)

    monkeypatch.setattr(source._consumer, "commit_async", note)
    for offsets in ({0: 5, 1: 7}, {0: 5, 1: 7}, {0: 5, 1: 8}):
        source.commit({(topic, partition): offset for partition, offset in offsets.items()})
    assert sent == [{0: 5, 1: 7}, {1: 8}]
    source._all_committed -= 3_600
    source.commit({(topic, 0): 5})
    assert sent[2:] == [{0: 5}]
    eventually(
        lambda: source._consumer.committed(TopicPartition(kafka.in_kafka(topic), 1)) == 8, "the commit"
    )
