"""What a reader of Apache Kafka meets, and of the broker in memory never: batches that a fetch cuts, logs that were
compacted or cut back, letters that have expired."""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.record import MemoryRecords

from infra.local.apache_kafka import ApacheKafka
from recsys.contracts.errors import InvalidData, Unavailable
from recsys.contracts.event_log import Record
from recsys.contracts.types import Topic
from streaming.log import KafkaSink, KafkaSource, create_topics
from streaming.log.dead_letter import skip
from streaming.log.fetcher import Broken
from streaming.log.stops import Stops
from streaming.log.topics import connect

pytestmark = [pytest.mark.apache_kafka, pytest.mark.slow]

PATIENCE_S = 60.0
COMPACTED_AT_ONCE = {
    "cleanup.policy": "compact",
    "segment.ms": "200",
    "delete.retention.ms": "0",
    "min.cleanable.dirty.ratio": "0",
}


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what


def read_up_to(source: KafkaSource, topic: str, ends: dict[int, int]) -> list[Record]:
    """What comes up to `ends`; no partition may stop."""
    records: list[Record] = []

    def is_read() -> bool:
        records.extend(source.poll(0.2, 1_000))
        assert source.unreadable() == []
        return all(source.position(topic, n) >= end for n, end in ends.items())

    eventually(is_read, f"{len(records)} records, not up to {ends}")
    return records


def append(sink: KafkaSink, topic: str, values: range) -> None:
    for n in values:
        sink.append(topic, "u", str(n).encode())
        sink.flush()  # a batch of its own


def batches_on_disk(broker: ApacheKafka, topic: str) -> list[tuple[Path, int, Any]]:
    """The batches of partition 0: file, place in it, batch."""
    found = []
    for file in sorted((broker.data / "log" / f"{topic}-0").glob("*.log")):
        records, place = MemoryRecords(file.read_bytes()), 0
        while (batch := records.next_batch()) is not None and batch.size_in_bytes > batch.AFTER_LEN_OFFSET:
            found.append((file, place, batch))
            place += batch.size_in_bytes
    return found


def test_batches_that_a_fetch_cuts_are_read_whole(apache_kafka: ApacheKafka) -> None:
    """Also one that is larger than a fetch, in partitions that fill a fetch together."""
    topic, kafka = f"cut-{uuid4().hex}", apache_kafka.connection
    create_topics(kafka, [topic], 2)
    producer = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap, linger_ms=20)
    sizes = [700, 900, 50_000, 1_100, 2_900] * 20
    for partition in (0, 1):
        for n, size in enumerate(sizes):
            producer.send(topic, b"%d:" % n + bytes(size), partition=partition)
            if n % 3 == 2:
                producer.flush()
    producer.close()
    with closing(KafkaSource(kafka, max_partition_fetch_bytes=4_000, fetch_max_bytes=6_000)) as source:
        for partition in (0, 1):
            source.seek(topic, partition, 0)
        records = read_up_to(source, topic, dict.fromkeys((0, 1), len(sizes)))
    for partition in (0, 1):
        values = [r.value for r in records if r.partition == partition]
        assert [int(value.split(b":")[0]) for value in values] == list(range(len(sizes)))


def test_a_compacted_log_is_read_across_its_holes_and_emptied_markers(apache_jars: Path) -> None:
    """A producer's successor ends its transaction. The marker is the producer's last word, so compaction keeps the
    batch, but not the record in it."""
    options = {"log.cleaner.backoff.ms": "100", "log.retention.check.interval.ms": "100"}
    with ApacheKafka(jars=apache_jars, options=options) as broker:
        topic, etl = "compacted", {"bootstrap_servers": broker.bootstrap, "transactional_id": "etl"}
        with connect(broker.connection) as admin:
            admin.create_topics([NewTopic(topic, 1, 1, topic_configs=COMPACTED_AT_ONCE)])
        with closing(KafkaProducer(**etl)) as producer:
            producer.init_transactions()
            producer.begin_transaction()
            producer.send(topic, b"taken back", key=b"etl")
            producer.flush()
            with closing(KafkaProducer(**etl)) as successor:
                successor.init_transactions()  # takes back what the one before has open
        with closing(KafkaSink(broker.connection)) as sink:

            def emptied() -> bool:
                sink.append(topic, "u", b"newest")  # compaction leaves the newest segment alone
                sink.flush()
                time.sleep(0.2)
                batches = [batch for _, _, batch in batches_on_disk(broker, topic)]
                return any(batch.is_control_batch and not batch.records_count for batch in batches)

            eventually(emptied, "no marker was emptied")
        with closing(KafkaSource(broker.connection)) as source:
            source.seek(topic, 0, 0)
            records = read_up_to(source, topic, {0: source.end_offset(topic, 0)})
        assert {record.value for record in records} == {b"newest"}
        assert len(records) <= records[-1].offset - records[0].offset + 1 < records[-1].offset


def test_a_log_that_was_cut_back_and_written_again_ends_its_reader(apache_jars: Path) -> None:
    """As after an unclean leader election: others have the offsets that the reader has passed."""
    topic = str(Topic.EVENTS)
    with (
        ApacheKafka(partitions=1, jars=apache_jars) as broker,
        closing(KafkaSink(broker.connection)) as sink,
        closing(KafkaSource(broker.connection)) as source,
    ):
        append(sink, topic, range(6))
        source.seek(topic, 0, 0)
        assert len(read_up_to(source, topic, {0: 6})) == 6
        broker.kill()
        file, place, batch = batches_on_disk(broker, topic)[-2]
        assert batch.base_offset == 4
        with file.open("r+b") as log:
            log.truncate(place)
        broker.start()
        append(sink, topic, range(10, 16))

        def came() -> bool:
            with suppress(Unavailable):  # just after its death; a worker waits likewise
                return bool(source.poll(0.2, 10))
            return False

        with pytest.raises(InvalidData, match="has other records from offset 4 on than those that were read"):
            eventually(came, "nothing came, and no error")


def test_an_order_to_skip_is_found_after_older_letters_have_expired(apache_kafka: ApacheKafka) -> None:
    kafka = replace(apache_kafka.connection, topic_prefix=f"skip-{uuid4().hex}.")
    create_topics(kafka, list(Topic), 1)
    with closing(KafkaSink(kafka)) as sink, closing(KafkaSource(kafka)) as reader:
        consumer, where = MagicMock(), TopicPartition(kafka.in_kafka(Topic.EVENTS), 0)
        log_id = reader.log_id(Topic.EVENTS)
        # a letter per fetch: one that is under way when the others expire gets the first of them
        stops = Stops(kafka, consumer, lambda: reader._new_consumer(max_partition_fetch_bytes=1))
        for offset, others in ((3, ()), (8, (5, 6, 7))):
            stops.stop(where, Broken(offset, offset + 1, "damaged", b"x"))
            assert stops.passed({Topic.EVENTS: log_id}) == []
            (found,) = stops.all()
            for other in others:
                skip(sink, log_id, replace(found, offset=other, next_offset=other + 1))
            skip(sink, log_id, found)
            letters = TopicPartition(kafka.in_kafka(Topic.DEAD_LETTER), 0)
            with connect(kafka) as admin:
                admin.delete_records({letters: reader.end_offset(Topic.DEAD_LETTER, 0) - 1})
            eventually(lambda: stops.passed({Topic.EVENTS: log_id}), "the order")
            assert stops.all() == []
            assert consumer.seek.call_args.args == (where, offset + 1)
