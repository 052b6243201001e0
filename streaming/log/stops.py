"""Partitions that stopped at a batch that cannot be read: tried again each second, passed once it is skipped."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import structlog
from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import Record, Unreadable
from recsys.contracts.types import Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log.dead_letter import FIRST, LOG_ID, NEXT, REASON, UNREADABLE, number
from streaming.log.fetcher import Broken

RETRY_S = 1.0  # it may have been damaged on the way, and another replica may have it whole

_log = structlog.get_logger(__name__)


class _Stopped(NamedTuple):
    found: Unreadable
    retry_at: float


class _Order(NamedTuple):
    """To skip the records from `first` to before `next`, by an operator."""

    log_id: str
    first: int
    next: int
    record: Record  # stands for the batch; acceptance refuses it


class Stops:
    """The stopped partitions of one consumer."""

    def __init__(self, kafka: KafkaConnection, consumer: Any, connect: Callable[[], Any]) -> None:
        """`connect`: another consumer, for the dead letters; called when there is a stopped partition."""
        self._kafka = kafka
        self._consumer = consumer
        self._connect = connect
        self._letters: Any = None
        self._orders: dict[tuple[str, int], list[_Order]] = {}  # by topic and partition
        self._stopped: dict[TopicPartition, _Stopped] = {}

    def all(self) -> list[Unreadable]:
        return [stopped.found for stopped in self._stopped.values()]

    def stop(self, where: TopicPartition, broken: Broken) -> None:
        """Pause the partition. The other partitions do not notice."""
        self._consumer.pause(where)
        topic = self._kafka.named(where.topic)
        found = Unreadable(
            topic, where.partition, broken.offset, broken.next_offset, broken.reason, broken.batch
        )
        known = self._stopped.get(where)
        if known is None or known.found.offset != found.offset:
            _log.error("a batch cannot be read: its partition stops", reason=str(found))
        self._stopped[where] = _Stopped(found, time.monotonic() + RETRY_S)

    def forget(self, where: TopicPartition) -> None:
        """It was read or sought."""
        if where in self._stopped:
            del self._stopped[where]
            if where in self._consumer.paused():
                self._consumer.resume(where)

    def passed(self, log_ids: Mapping[str, str]) -> list[Record]:
        """A record for each batch that was skipped meanwhile; its partition continues after it."""
        if not self._stopped:
            return []
        with contextlib.suppress(Unavailable, KafkaError):  # the other partitions continue
            self._read_orders()
        records = []
        for where, (found, retry_at) in list(self._stopped.items()):
            order = self._order(found, log_ids.get(found.topic, ""))
            if order is not None:
                _log.warning("skipped a batch that cannot be read", reason=str(found), next_offset=order.next)
                self._consumer.seek(where, order.next)
                self.forget(where)
                records.append(order.record)
            elif time.monotonic() >= retry_at and where in self._consumer.paused():
                self._consumer.resume(where)
        return records

    def _order(self, found: Unreadable, log_id: str) -> _Order | None:
        orders = self._orders.get((found.topic, found.partition), ())
        fits = (o for o in orders if o.log_id == log_id and o.first <= found.offset < o.next)
        return next(fits, None)

    def _read_orders(self) -> None:
        if self._letters is None:
            self._letters = self._connect()
        topic = self._kafka.in_kafka(Topic.DEAD_LETTER)
        numbers = self._letters.partitions_for_topic(topic) or ()
        wanted = {TopicPartition(topic, number) for number in numbers}
        if new := wanted - self._letters.assignment():
            self._letters.assign(sorted(wanted))
            self._letters.seek_to_beginning(*new)
        try:
            found = self._letters.poll(timeout_ms=0, max_records=2_000)
        except OffsetOutOfRangeError as error:  # retention has deleted letters since the last stop
            self._letters.seek_to_beginning(*error.args[0])
            return
        for letters in found.values():
            for letter in letters:
                if not isinstance(letter, Broken) and (order := _parse(letter)) is not None:
                    where = order.record.topic, order.record.partition
                    self._orders.setdefault(where, []).append(order)


def _parse(letter: Any) -> _Order | None:
    """None: a dead letter like any other."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in letter.headers}
    first, following = number(headers.get(FIRST, "")), number(headers.get(NEXT, ""))
    partition = number(headers.get("partition", ""))
    if first < 0 or partition < 0 or following <= first:
        return None
    reason = (UNREADABLE, headers.get(REASON, "").encode())
    topic, value = headers.get("topic", ""), letter.value or b""
    record = Record(topic, partition, following - 1, "", value, letter.timestamp, (reason,))
    return _Order(headers.get(LOG_ID, ""), first, following, record)
