"""Transactions of other producers on Apache Kafka: readers get what was committed, and say what holds them back."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from infra.local.apache_kafka import ApacheKafka
from streaming.log import KafkaSink, KafkaSource, create_topics

pytestmark = [pytest.mark.apache_kafka, pytest.mark.slow]

PATIENCE_S = 60.0


@pytest.fixture
def topic(apache_kafka: ApacheKafka) -> str:
    name = f"transactions-{uuid4().hex}"
    create_topics(apache_kafka.connection, [name], 1)
    return name


@pytest.fixture
def source(apache_kafka: ApacheKafka, topic: str) -> Iterator[KafkaSource]:
    with closing(KafkaSource(apache_kafka.connection)) as source:
        source.seek(topic, 0, 0)
        yield source


@pytest.fixture
def foreign(apache_kafka: ApacheKafka) -> Iterator[KafkaProducer]:
    """A producer that is in a transaction: `etl-…`."""
    producer = KafkaProducer(
        bootstrap_servers=apache_kafka.bootstrap,
        transactional_id=f"etl-{uuid4().hex}",
        transaction_timeout_ms=600_000,
    )
    producer.init_transactions()
    producer.begin_transaction()
    yield producer
    producer.close()


def write(producer: KafkaProducer, topic: str, *values: bytes) -> None:
    for value in values:
        producer.send(topic, value)
    producer.flush()


def read_all(source: KafkaSource, topic: str) -> list[bytes]:
    """What comes up to the end of now."""
    end, values = source.end_offset(topic, 0), list[bytes]()

    def is_read() -> bool:
        values.extend(record.value for record in source.poll(0.2, 3))
        return source.position(topic, 0) >= end

    until(is_read)
    return values


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline


def test_what_was_taken_back_is_not_read_and_markers_are_no_lag(
    source: KafkaSource, topic: str, foreign: KafkaProducer
) -> None:
    write(foreign, topic, *(b"no" for _ in range(5)))
    foreign.abort_transaction()
    foreign.begin_transaction()
    write(foreign, topic, *(b"yes" for _ in range(5)))
    foreign.commit_transaction()
    until(lambda: source.end_offset(topic, 0) == 12)  # the broker writes the marker after its answer
    assert read_all(source, topic) == [b"yes"] * 5
    foreign.begin_transaction()
    write(foreign, topic, b"no")
    foreign.abort_transaction()
    until(lambda: source.end_offset(topic, 0) == 14)
    assert read_all(source, topic) == []
    assert source.position(topic, 0) == source.end_offset(topic, 0) == 14  # 11 records, 3 markers
    assert source.lag(topic, 0) == 0


def test_an_open_transaction_is_named_and_holds_back_what_is_behind_it(
    source: KafkaSource,
    topic: str,
    foreign: KafkaProducer,
    apache_kafka: ApacheKafka,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = foreign.config["transactional_id"]
    with closing(KafkaSink(apache_kafka.connection)) as sink:
        sink.append(topic, "u", b"before")
        sink.flush()
        write(foreign, topic, b"open")
        sink.append(topic, "u", b"behind")
        sink.flush()
    assert read_all(source, topic) == [b"before"]
    assert source.end_offset(topic, 0) == 1
    assert not source.held_back() and not source.open_transactions(topic)  # not yet for long
    monkeypatch.setattr("streaming.log.source.HELD_BACK_S", 0.0)
    monkeypatch.setattr("streaming.log.transactions.HELD_BACK_S", 0.0)
    until(lambda: bool(source.poll(0.2, 3) or source.held_back()))
    (held_back,) = source.held_back()
    assert (held_back.offset, held_back.records) == (1, 2)
    assert source.lag(topic, 0) == 0
    (sentence,) = source.open_transactions(topic)
    assert f"{topic}/0: transaction {name} of producer" in sentence
    assert "holds back the records from offset 1 on; it is aborted after 600 s" in sentence
    foreign.commit_transaction()
    until(lambda: source.end_offset(topic, 0) == 4)
    assert read_all(source, topic) == [b"open", b"behind"]
    assert not source.held_back() and not source.open_transactions(topic)
