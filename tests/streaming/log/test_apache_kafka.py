"""What Apache Kafka promises and the broker in memory cannot: a log that outlives kills, a clock, replicas."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import LogTruncationError

from infra.local.apache_kafka import ApacheKafka, new_cluster_id
from infra.local.process import free_port
from recsys.contracts.errors import InvalidData, LogReplaced, Unavailable
from recsys.contracts.event_log import Gap, Record, Unreadable
from recsys.contracts.types import MS_PER_DAY, Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log import KafkaSink, KafkaSource, create_topics
from streaming.log.topics import connect

pytestmark = [pytest.mark.apache_kafka, pytest.mark.slow]

PATIENCE_S = 120.0


def everything(kafka: KafkaConnection, topic: str) -> list[Record]:
    """Every record of a topic, up to its end now."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    with closing(KafkaSource(kafka)) as source:
        ends = {n: source.end_offset(topic, n) for n in range(source.partitions(topic))}
        for number, end in ends.items():
            if end:
                source.seek(topic, number, 0)
        while len(records) < sum(ends.values()):
            assert time.monotonic() < deadline, f"{len(records)} of {ends}"
            records += source.poll(0.2, 1_000)
    return records


def assert_none_lost_and_in_order(records: list[Record], count: int) -> None:
    """Of `count` numbers, whose key is their last digit. One whose acknowledgement was lost is there twice: readers
    know events by their ids."""
    assert {int(r.value) for r in records} == set(range(count))
    for key in {r.key for r in records}:
        first_seen = list(dict.fromkeys(int(r.value) for r in records if r.key == key))
        assert first_seen == sorted(first_seen)


def send(sink: KafkaSink, first: int, last: int) -> None:
    for n in range(first, last):
        sink.append(Topic.EVENTS, str(n % 10), str(n).encode())


def test_kills_lose_and_reorder_nothing(apache_jars: Path) -> None:
    with ApacheKafka(jars=apache_jars) as broker:
        sink = KafkaSink(broker.connection, max_outage_s=PATIENCE_S)
        for life in range(2):
            send(sink, life * 400, life * 400 + 300)
            if life == 0:  # else with records on their way
                sink.flush(PATIENCE_S)
            broker.kill()
            send(sink, life * 400 + 300, life * 400 + 400)  # while it is away
            broker.start()
        sink.close(PATIENCE_S)
        assert_none_lost_and_in_order(everything(broker.connection, Topic.EVENTS), 800)


def test_the_time_is_the_brokers(apache_kafka: ApacheKafka) -> None:
    """As `create_topics` asks for: a producer's clock decides nothing."""
    topic = f"clocks-{uuid4().hex}"
    create_topics(apache_kafka.connection, [topic], 1)
    producer = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap)
    producer.send(topic, b"{}", timestamp_ms=time.time_ns() // 1_000_000 - 9 * MS_PER_DAY)
    producer.close()
    (record,) = everything(apache_kafka.connection, topic)
    assert abs(record.append_time_ms - time.time() * 1_000) < MS_PER_DAY


def test_a_topic_that_was_created_again_is_another_log(apache_kafka: ApacheKafka) -> None:
    topic = f"again-{uuid4().hex}"
    create_topics(apache_kafka.connection, [topic], 1)
    with closing(KafkaSource(apache_kafka.connection)) as source:
        first = source.log_id(topic)
        source.seek(topic, 0, 0)
        with connect(apache_kafka.connection) as admin:
            admin.delete_topics([topic])
        create_topics_once_gone(apache_kafka.connection, topic)
        with pytest.raises(LogReplaced, match="created again"):
            for _ in range(int(PATIENCE_S)):
                source.poll(1.0, 10)
        assert source.log_id(topic) != first


def test_a_topic_created_again_is_no_log_that_was_cut_back(apache_kafka: ApacheKafka) -> None:
    """The broker says the same of both: that a reader has passed what the log has."""
    topic, kafka = f"shorter-{uuid4().hex}", apache_kafka.connection
    create_topics(kafka, [topic], 1)
    with closing(KafkaSource(kafka)) as source:
        with closing(KafkaSink(kafka)) as sink:
            send_to(sink, topic, 6)
        first = source.log_id(topic)
        source.seek(topic, 0, 0)
        read: list[Record] = []
        while len(read) < 6:
            read += source.poll(1.0, 10)
        with connect(kafka) as admin:
            admin.delete_topics([topic])
        create_topics_once_gone(kafka, topic)
        with closing(KafkaSink(kafka)) as sink:
            send_to(sink, topic, 2)
        source._checked = time.monotonic() + PATIENCE_S  # between two checks of its identity
        with pytest.raises(LogReplaced, match="created again"):
            for _ in range(int(PATIENCE_S)):
                source.poll(1.0, 10)
        assert source.log_id(topic) != first
        source.seek(topic, 0, 0)
        again: list[Record] = []
        while len(again) < 2:
            again += source.poll(1.0, 10)
        assert [record.offset for record in again] == [0, 1]


def test_what_was_found_of_an_earlier_position_ends_nobody(apache_kafka: ApacheKafka) -> None:
    topic, kafka = f"sought-{uuid4().hex}", apache_kafka.connection
    create_topics(kafka, [topic], 1)
    with closing(KafkaSink(kafka)) as sink, closing(KafkaSource(kafka)) as source:
        send_to(sink, topic, 1)
        where = TopicPartition(kafka.in_kafka(topic), 0)
        source.seek(topic, 0, 0)
        source._consumer._fetcher._cached_log_truncation = LogTruncationError({where: None})
        read: list[Record] = []
        while not read:
            read += source.poll(1.0, 10)
        source._consumer._fetcher._cached_log_truncation = LogTruncationError({where: None})
        with pytest.raises(InvalidData, match="has other records than those that were read"):
            source.poll(1.0, 10)


def send_to(sink: KafkaSink, topic: str, count: int) -> None:
    for n in range(count):
        sink.append(topic, "", str(n).encode())
    sink.flush(PATIENCE_S)


def test_another_reader_begins_at_its_offsets_or_behind_a_gap(apache_kafka: ApacheKafka) -> None:
    topic, kafka = f"gap-{uuid4().hex}", apache_kafka.connection
    create_topics(kafka, [topic], 1)
    with closing(KafkaSink(kafka)) as sink:
        for n in range(9):
            sink.append(topic, "", str(n).encode())
    with connect(kafka) as admin:
        admin.delete_records({TopicPartition(topic, 0): 5})
    where = (topic, 0)
    with closing(KafkaSource(kafka)) as strict, closing(KafkaSource(kafka, accept_gap=True)) as source:
        for each in (strict, source):
            each.seek(*where, 0)
        found = {at: source.readable_from({where: at})[where] for at in (0, 3, 5, 9)}
        assert found == {0: 5, 3: 5, 5: 5, 9: 9}
        assert source.gaps() == [Gap(*where, 3, 5)]
        with pytest.raises(InvalidData, match="--accept-gap"):
            strict.readable_from({where: 3})
        with pytest.raises(InvalidData, match="ends before offset 10"):
            source.readable_from({where: 10})


def create_topics_once_gone(kafka: KafkaConnection, topic: str) -> None:
    """A deletion takes a moment."""
    with connect(kafka) as admin:
        while topic in {there["name"] for there in admin.describe_topics()}:
            time.sleep(0.1)
    create_topics(kafka, [topic], 1)


@pytest.fixture
def cluster(apache_jars: Path) -> Iterator[list[ApacheKafka]]:
    """Three nodes, three replicas of the topic, two of which must have a record."""
    identity, controllers = new_cluster_id(), [free_port() for _ in range(3)]
    voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, 1))
    nodes = []
    for number, controller in enumerate(controllers, 1):
        port = free_port()
        options = {
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
        }
        nodes.append(ApacheKafka(port=port, jars=apache_jars, options=options, cluster_id=identity))
    with ExitStack() as opened:
        for node in nodes:
            opened.callback(node.close)
            node.launch()  # none answers alone
        for node in nodes:
            node.wait()
        yield nodes


def test_a_rolling_restart_loses_and_reorders_nothing(cluster: list[ApacheKafka]) -> None:
    """Neither for a producer nor for a reader, who are there all the time."""
    kafka = KafkaConnection(",".join(node.bootstrap for node in cluster))
    create_topics(kafka, [Topic.EVENTS], 2)
    sink, rolled, sent = KafkaSink(kafka, max_outage_s=PATIENCE_S), threading.Event(), 0
    reader = Reader(kafka, Topic.EVENTS, 2)

    def produce() -> None:
        nonlocal sent
        while not rolled.is_set():
            send(sink, sent, sent + 10)
            sent += 10
            time.sleep(0.05)

    producing = threading.Thread(target=produce)
    producing.start()
    reader.start()
    for number, node in enumerate(cluster):
        if number == 1:
            node.kill()
        else:
            node.stop()
        node.launch()
        node.wait()
    rolled.set()
    producing.join()
    sink.close(PATIENCE_S)
    records = everything(kafka, Topic.EVENTS)
    assert_none_lost_and_in_order(records, sent)
    assert sorted(reader.finish(len(records)), key=place) == sorted(records, key=place)


class Reader(threading.Thread):
    """Reads a topic all the time, across outages, from where it is."""

    def __init__(self, kafka: KafkaConnection, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self._records: list[Record] = []
        self._stopped: list[Unreadable] = []
        self._expected = sys.maxsize
        self._source = KafkaSource(kafka)
        for partition in range(partitions):
            self._source.seek(topic, partition, 0)

    def run(self) -> None:
        with closing(self._source):
            while len(self._records) < self._expected:
                with suppress(Unavailable):
                    self._records += self._source.poll(0.1, 100)
                self._stopped += self._source.unreadable()

    def finish(self, expected: int) -> list[Record]:
        """What was read, once as many as `expected` were. No partition may have stopped."""
        self._expected = expected
        self.join(PATIENCE_S)
        assert not self._stopped
        return self._records


def place(record: Record) -> tuple[int, int]:
    return record.partition, record.offset
