"""Write to Kafka."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner import Partitioner

from recsys.contracts.errors import AccessRefused, InvalidEvent, Unavailable
from recsys.contracts.event_log import remembered_partition_of
from recsys.kafka_connection import KafkaConnection
from streaming.log.connection import client_options, kafka_errors
from streaming.log.topics import never_create_topics

DELIVERY_TIMEOUT_MS = 30_000
STALL_S = 5.0
LINGER_MS = 5  # Kafka's own default from 4.0 on
_AWAY_PAUSE_S, _REFUSED_PAUSE_S = 0.2, 1.0  # of the keeper, before it tries again
MAX_RECORD_BYTES = 1_000_000  # Kafka's default of 1 MiB minus key, headers and framing

_log = structlog.get_logger(__name__)


class _ByKey(Partitioner):  # type: ignore[misc]  # untyped
    """The default rule of Kafka's clients; keys are strings here.

    `partitions`: `RECSYS_PARTITIONS`. Those beyond it stay empty until it is raised; 0: all are used.
    """

    def __init__(self, partitions: int = 0) -> None:
        self._partitions = partitions

    def partition(
        self, topic: str, key: Any, serialized_key: bytes, value: Any, serialized_value: bytes, cluster: Any
    ) -> int:
        found = len(cluster.partitions_for_topic(topic))
        return remembered_partition_of(serialized_key.decode(), min(found, self._partitions or found))


class _Pending(NamedTuple):
    """An unacknowledged record. `future` is None while there is no producer."""

    topic: str
    key: str
    value: bytes
    headers: list[tuple[str, bytes]]
    future: Any = None

    @property
    def acknowledged(self) -> bool:
        return self.future is not None and bool(self.future.succeeded())


class KafkaSink:
    """`EventSink` on Kafka: acknowledged by all replicas, idempotent, ordered per key.

    1. `append` buffers the record until it is acknowledged, at most `max_pending` records.
    2. The producer retries what can be retried without duplicates.
    3. When it gives up on a record, or records wait and none was acknowledged for `STALL_S` (the broker is away or
       lost its log and with it the producer's id), the keeper thread creates a new producer and resends everything
       unacknowledged, in order. A record whose acknowledgement was lost is then in the log twice; readers deduplicate
       by event id.
    4. When the log has been away for `max_outage_s`, `append` refuses records until it is back; at once when it
       refuses this client.

    Creating a sink asks no broker; the first `flush` shows whether the log is reachable.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        partitions: int = 0,
        max_pending: int = 50_000,
        max_outage_s: float = 15.0,
    ) -> None:
        """`partitions`: `RECSYS_PARTITIONS`; those that a topic has beyond it stay empty until it is raised. 0: all are
        used."""
        client_options(kafka)
        self._kafka = kafka
        self._partitions = partitions
        self._max_pending = max_pending
        self._max_outage_s = max_outage_s
        self._lock = threading.RLock()  # guards _pending … _producer and _away_since
        self._pending: deque[_Pending] = deque()
        self._acknowledged = 0
        self._progress = time.monotonic()  # time of the last acknowledgement, or of the first waiting record
        self._producer: Any = None
        self._refused: AccessRefused | None = None  # why there is no producer, if Kafka said so
        self._broken: Any = None  # the failed producer; set by its own thread, without the lock
        self._away_since = time.monotonic()
        self._closed = False
        self._wake = threading.Event()
        self._wake.set()
        self._keeper = threading.Thread(target=self._keep, name="kafka-sink", daemon=True)
        self._keeper.start()

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Queue one record.
        Raises `Unavailable`: too many records wait, the log has been away too long, or the sink is closed.
        Raises `AccessRefused`: the log refuses this client.
        Raises `InvalidEvent`: the record is too large."""
        if len(value) > MAX_RECORD_BYTES:
            raise InvalidEvent(f"a record of {len(value)} bytes exceeds Kafka's limit of {MAX_RECORD_BYTES}")
        with self._lock:
            self._forget_acknowledged()
            if self._closed:
                raise Unavailable("this sink is closed")
            if self._refused is not None:
                raise AccessRefused(str(self._refused))
            if len(self._pending) >= self._max_pending:
                raise Unavailable(
                    f"Kafka at {self._kafka.bootstrap}: {self._max_pending} records wait already"
                )
            if self._producer is None and time.monotonic() - self._away_since > self._max_outage_s:
                raise Unavailable(
                    f"Kafka at {self._kafka.bootstrap} has been away for {self._max_outage_s:.0f} s"
                )
            if not self._pending:
                self._progress = time.monotonic()
            self._pending.append(self._send(_Pending(str(topic), key, value, list(headers)), self._producer))

    def flush(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            goal = self._acknowledged + len(self._pending)
        while (missing := self._missing(goal)) > 0:
            if (refused := self._refused) is not None:
                raise AccessRefused(str(refused))
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    f"Kafka at {self._kafka.bootstrap}: {missing} records not acknowledged in time"
                )
            if (producer := self._producer) is None or producer is self._broken:
                time.sleep(min(left, 0.02))  # the keeper replaces it
            else:
                with contextlib.suppress(KafkaError):  # failed records stay pending and are resent
                    producer.flush(timeout=min(left, 1.0))

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush and close. Raises `Unavailable`: with the number of unacknowledged records."""
        try:
            self.flush(timeout_s)
        finally:
            with self._lock:
                self._closed = True
            self._wake.set()
            self._keeper.join()
            self._discard_producer()

    def _missing(self, goal: int) -> int:
        with self._lock:
            self._forget_acknowledged()
            return goal - self._acknowledged

    def _forget_acknowledged(self) -> None:
        while self._pending and self._pending[0].acknowledged:
            self._pending.popleft()
            self._acknowledged += 1
            self._progress = time.monotonic()

    def _send(self, record: _Pending, producer: Any) -> _Pending:
        """Pass one record to the producer, if there is one."""
        if producer is None:
            return record
        try:
            topic = self._kafka.in_kafka(record.topic)
            future = producer.send(topic, record.value or None, record.key.encode(), record.headers)
        except KafkaError as error:
            raise Unavailable(f"Kafka at {self._kafka.bootstrap}, topic {record.topic}: {error}") from error
        future.add_errback(lambda error: self._on_failure(producer, error))
        return record._replace(future=future)

    def _on_failure(self, producer: Any, error: Exception) -> None:
        """Runs on the producer's thread: only wakes the keeper."""
        if self._broken is not producer:
            self._broken = producer
            _log.warning("kafka producer broken", error=str(error))
            self._wake.set()

    def _keep(self) -> None:
        """The keeper thread: replaces broken and stalled producers."""
        while not self._closed:
            self._wake.wait(timeout=1.0)
            self._wake.clear()
            try:
                if self._producer is not None and (self._broken is self._producer or self._stalled()):
                    self._discard_producer()
                if self._producer is None and not self._closed:
                    self._replace_producer()
            except AccessRefused as error:
                if self._refused is None:
                    _log.error("kafka refuses this client", error=str(error))
                self._refused = error
                self._retry_after(_REFUSED_PAUSE_S)
            except Exception as error:  # any: without its keeper the sink is dead
                _log.warning("kafka away", error=str(error), pending=len(self._pending))
                self._retry_after(_AWAY_PAUSE_S)

    def _retry_after(self, seconds: float) -> None:
        time.sleep(seconds)
        self._wake.set()

    def _stalled(self) -> bool:
        with self._lock:
            self._forget_acknowledged()
            return bool(self._pending) and time.monotonic() - self._progress > STALL_S

    def _replace_producer(self) -> None:
        with kafka_errors(self._kafka):
            producer = KafkaProducer(
                acks="all",
                enable_idempotence=True,
                linger_ms=LINGER_MS,
                partitioner=_ByKey(self._partitions),
                batch_size=128 * 1024,
                request_timeout_ms=DELIVERY_TIMEOUT_MS // 3,
                delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
                max_block_ms=2_000,
                **client_options(self._kafka) | {"bootstrap_timeout_ms": 2_000},
            )
            never_create_topics(producer._metadata)
        with self._lock:
            self._producer, self._refused = producer, None
            waiting = [record for record in self._pending if not record.acknowledged]
            try:
                resent = deque(self._send(record, producer) for record in waiting)
            except BaseException:
                self._broken = producer
                raise
            self._acknowledged += len(self._pending) - len(resent)
            self._pending = resent
            self._progress = time.monotonic()

    def _discard_producer(self) -> None:
        with self._lock:
            producer, self._producer = self._producer, None
            self._away_since = time.monotonic()
        if producer is not None:
            # with unfinished batches, `close` returns before its thread has ended: end the thread first
            producer._sender.force_close()
            with contextlib.suppress(KafkaError):
                producer.close(timeout=2.0)
