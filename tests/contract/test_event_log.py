"""The contract of every event log: one suite, run on memory and on Kafka."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from recsys.contracts.event_log import EventSink, EventSource, Record, partition_of
from streaming.log import KafkaSink, KafkaSource, create_topics
from tests.memory_event_log import MemoryEventLog

PARTITIONS = 3


@dataclass
class Log:
    """One implementation under test: a topic, a sink and any number of sources on it."""

    topic: str
    sink: EventSink
    source: Callable[[], EventSource]


BROKERS = [
    pytest.param("kafka", marks=pytest.mark.kafka),
    pytest.param("apache", marks=pytest.mark.apache_kafka),
]


@pytest.fixture(params=["memory", *BROKERS])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    if request.param == "memory":
        memory = MemoryEventLog(PARTITIONS)
        yield Log("events", memory, memory.source)
        return
    if request.param == "apache":
        kafka = request.getfixturevalue("apache_kafka").connection
    else:
        kafka = request.getfixturevalue("kafka")
    topic = f"contract-{uuid4().hex}"
    create_topics(kafka, [topic], PARTITIONS)
    sink, sources = KafkaSink(kafka), list[KafkaSource]()

    def source() -> KafkaSource:
        sources.append(KafkaSource(kafka))
        return sources[-1]

    yield Log(topic, sink, source)
    sink.close()
    for each in sources:
        each.close()


def read(source: EventSource, count: int, timeout_s: float = 30.0) -> list[Record]:
    """Poll until `count` records have come."""
    records: list[Record] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < deadline:
        records += source.poll(0.2, count - len(records))
    return records


def seek_all(log: Log, source: EventSource) -> EventSource:
    for partition in range(PARTITIONS):
        source.seek(log.topic, partition, 0)
    return source


def test_what_is_appended_comes_back_by_partition_and_in_order(log: Log) -> None:
    keys = [f"user-{n % 7}" for n in range(50)]
    for n, key in enumerate(keys):
        log.sink.append(log.topic, key, str(n).encode(), headers=[("h", b"1")] if n % 2 else [])
    log.sink.flush()
    records = read(seek_all(log, log.source()), 50)
    assert sorted(int(r.value) for r in records) == list(range(50))
    for record in records:
        assert record.topic == log.topic
        assert record.key == keys[int(record.value)]
        assert record.partition == partition_of(record.key, PARTITIONS)
        assert record.headers == ((("h", b"1"),) if int(record.value) % 2 else ())
    for partition in range(PARTITIONS):
        mine = [r for r in records if r.partition == partition]
        assert [r.offset for r in mine] == list(range(len(mine)))
        assert [int(r.value) for r in mine] == sorted(int(r.value) for r in mine)


def test_reading_starts_where_it_was_sought_and_again_when_sought_again(log: Log) -> None:
    for n in range(10):
        log.sink.append(log.topic, "u", str(n).encode())
    log.sink.flush()
    partition = partition_of("u", PARTITIONS)
    source = log.source()
    source.seek(log.topic, partition, 7)
    assert [r.value for r in read(source, 3)] == [b"7", b"8", b"9"]
    source.seek(log.topic, partition, 8)
    assert [r.value for r in read(source, 2)] == [b"8", b"9"]


def test_a_poll_gives_no_more_than_was_asked_and_goes_on_from_there(log: Log) -> None:
    for n in range(9):
        log.sink.append(log.topic, "u", str(n).encode())
    log.sink.flush()
    source = log.source()
    source.seek(log.topic, partition_of("u", PARTITIONS), 0)
    batches: list[list[Record]] = []
    deadline = time.monotonic() + 30
    while sum(len(b) for b in batches) < 9 and time.monotonic() < deadline:
        batches.append(source.poll(0.2, 4))
    assert max(len(b) for b in batches) <= 4
    assert [int(r.value) for batch in batches for r in batch] == list(range(9))


def test_a_poll_of_an_idle_log_is_empty(log: Log) -> None:
    assert seek_all(log, log.source()).poll(0.1, 10) == []


def test_two_sources_have_positions_of_their_own(log: Log) -> None:
    log.sink.append(log.topic, "u", b"x")
    log.sink.flush()
    first, second = seek_all(log, log.source()), seek_all(log, log.source())
    assert len(read(first, 1)) == len(read(second, 1)) == 1


def test_end_offset_is_that_of_the_next_record_for_whoever_asks(log: Log) -> None:
    source, partition = log.source(), partition_of("u", PARTITIONS)
    assert source.end_offset(log.topic, partition) == 0
    for expected in (1, 2, 3):
        log.sink.append(log.topic, "u", b"x")
        log.sink.flush()
        assert source.end_offset(log.topic, partition) == expected
    assert source.end_offset(log.topic, (partition + 1) % PARTITIONS) == 0
    assert source.partitions(log.topic) == PARTITIONS


def test_log_id_is_the_same_for_every_reader(log: Log) -> None:
    assert log.source().log_id(log.topic) == log.source().log_id(log.topic) != ""


def test_a_partition_is_read_no_more_and_the_others_go_on(log: Log) -> None:
    source = seek_all(log, log.source())
    keys = [f"user-{n}" for n in range(30)]
    kept = [key for key in keys if partition_of(key, PARTITIONS) != 0]
    assert 0 < len(kept) < 30
    for key in keys:
        log.sink.append(log.topic, key, b"1")
    log.sink.flush()
    read(source, 30)
    source.unseek(log.topic, 0)
    for key in keys:
        log.sink.append(log.topic, key, b"2")
    log.sink.flush()
    found = read(source, len(kept)) + source.poll(0.5, 100)
    assert sorted(r.key for r in found if r.value == b"2") == sorted(kept)
    source.unseek(log.topic, 0)  # again is no error
