"""On a real broker: a damaged batch stops its partition until it is skipped, for every reader, now and later."""

import contextlib
from collections.abc import Callable

import pytest

from infra.evaluation.fault_injection.foreign_batches import append_batch, bad_content, batch
from infra.local.memory_kafka import MemoryKafka
from recsys.contracts.errors import InvalidData
from recsys.contracts.event_log import Record
from recsys.contracts.types import Topic
from streaming.log import KafkaSink, KafkaSource, find_unreadable
from streaming.log.dead_letter import UNREADABLE, read_dead_letters, skip
from tests.streaming.log.test_log import eventually

pytestmark = pytest.mark.kafka
VALUES = [b"a", b"b"]


def test_a_damaged_batch_stops_its_partition_until_it_is_skipped(kafka_broker: MemoryKafka) -> None:
    at, damaged = kafka_broker.connection, bytes(bad_content(batch("k", VALUES)))
    for raw in (batch("k", VALUES), damaged, batch("k", VALUES)):
        append_batch(at, Topic.EVENTS, 1, raw)
    append_batch(at, Topic.EVENTS, 0, batch("k", VALUES))
    with contextlib.ExitStack() as opened:
        sink = opened.enter_context(contextlib.closing(KafkaSink(at)))

        def new_reader() -> tuple[KafkaSource, list[Record], Callable[[], int]]:
            source, records = opened.enter_context(contextlib.closing(KafkaSource(at))), list[Record]()
            source.seek(Topic.EVENTS, 0, 0)
            source.seek(Topic.EVENTS, 1, 0)

            def read() -> int:
                records.extend(source.poll(0.1, 100))
                return len(records)

            return source, records, read

        running, records, read = new_reader()
        eventually(lambda: read() == 4 and len(running.unreadable()) == 1, "what can be read")
        append_batch(at, Topic.EVENTS, 0, batch("k", VALUES))
        eventually(lambda: read() == 6, "the other partition continues")
        assert "events/1 stops at offset 2" in str(running.unreadable()[0])
        assert running.end_offset(Topic.EVENTS, 1) == 6

        operator = opened.enter_context(contextlib.closing(KafkaSource(at)))
        for partition, offset in ((0, 0), (1, 0), (1, 6), (9, 0)):
            with pytest.raises(InvalidData):
                find_unreadable(operator, Topic.EVENTS, partition, offset)
        found = find_unreadable(operator, Topic.EVENTS, 1, 2)
        assert (found.offset, found.next_offset) == (2, 4)
        skip(sink, operator.log_id(Topic.EVENTS), found)

        eventually(lambda: read() == 9 and not running.unreadable(), "what comes after")
        _, later_records, read_later = new_reader()
        eventually(lambda: read_later() == 9, "a later reader")
        for found_records in (records, later_records):
            of_partition = [record for record in found_records if record.partition == 1]
            assert [record.offset for record in of_partition] == [0, 1, 3, 4, 5]
            assert of_partition[2].headers[0][0] == UNREADABLE
        skip(sink, operator.log_id(Topic.EVENTS), found)  # a second time, to no effect
        with contextlib.closing(KafkaSource(at)) as source:
            (letter,) = read_dead_letters(source)
        assert (letter.kind, letter.partition, letter.value) == ("unreadable", 1, found.batch)
