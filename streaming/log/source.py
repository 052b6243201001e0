"""Read from Kafka, by offset."""

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from recsys.contracts.errors import InvalidData, LogReplaced, Unavailable
from recsys.contracts.event_log import Record
from streaming.log.topics import CONNECT_TIMEOUT_MS, connect, kafka_errors

IDENTITY_CHECK_S = 1.0
# How long a fetch waits for records. The embedded broker answers half of this time after records have arrived; less
# than 10 ms gains nothing there (append to read, idle: 6 ms as with 4 ms) and costs CPU time.
FETCH_WAIT_MS = 10

Partition = tuple[str, int]


class KafkaSource:
    """`EventSource` on Kafka: reads the partitions that `seek` named, from there on."""

    def __init__(self, bootstrap: str, **options: Any) -> None:
        """`options`: passed to `KafkaConsumer`. Seeking to offset 0 means the oldest record.
        Raises `Unavailable`: no broker answers."""
        self._bootstrap = bootstrap
        self._log_ids: dict[str, str] = {}
        self._checked = 0.0
        self._asking: Future[str] | None = None  # the name of a replaced topic; empty: none
        self._open = contextlib.ExitStack()
        self._consumer = self._new_consumer(**options)
        self._probe: Any = None
        self._probed: dict[TopicPartition, int] = {}
        self._admin = self._open.enter_context(connect(bootstrap))
        self._asker = self._open.enter_context(ThreadPoolExecutor(1, "log-identity"))

    def partitions(self, topic: str) -> int:
        return len(self._describe(topic)["partitions"])

    def log_id(self, topic: str) -> str:
        """The topic's id. From now on `poll` raises `LogReplaced` when the id changes."""
        self._log_ids[str(topic)] = found = str(self._describe(topic)["topic_id"])
        return found

    def seek(self, topic: str, partition: int, offset: int) -> None:
        if topic not in self._log_ids:
            self.log_id(topic)
        where = TopicPartition(str(topic), partition)
        if where not in self._consumer.assignment():
            self._consumer.assign([*self._consumer.assignment(), where])
        self._consumer.seek(where, offset)

    def unseek(self, topic: str, partition: int) -> None:
        gone = TopicPartition(str(topic), partition)
        self._consumer.assign([where for where in self._consumer.assignment() if where != gone])

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        self._check_identity()
        with kafka_errors(self._bootstrap):
            try:
                found = self._consumer.poll(timeout_ms=int(timeout_s * 1_000), max_records=max_records)
            except OffsetOutOfRangeError as error:
                self._check_identity(now=True)
                self._seek_to_beginning(error)
                return []
        now_ms = time.time_ns() // 1_000_000
        return [_record(raw, now_ms) for batch in found.values() for raw in batch]

    def end_offset(self, topic: str, partition: int) -> int:
        """Uses a fetch, because the embedded broker answers `end_offsets` wrongly."""
        where = TopicPartition(str(topic), partition)
        with kafka_errors(self._bootstrap):
            if self._probe is None:
                self._probe = self._new_consumer(max_partition_fetch_bytes=16 * 1024)
            self._probe.assign([])  # drops the high watermark of an earlier call
            self._probe.assign([where])
            self._probe.seek(where, self._probed.get(where, 0))
            deadline = time.monotonic() + CONNECT_TIMEOUT_MS / 1_000
            while (end := self._probe.highwater(where)) is None:
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka at {self._bootstrap}: {topic}/{partition} cannot be read")
                try:
                    self._probe.poll(timeout_ms=50, max_records=1)
                except OffsetOutOfRangeError:
                    self._probe.seek(where, self._probe.beginning_offsets([where])[where])
        self._probed[where] = end
        return int(end)

    def lag(self, topic: str, partition: int) -> int | None:
        """Number of unread records at the last fetch; None before the first."""
        where = TopicPartition(str(topic), partition)
        end = self._consumer.highwater(where) if where in self._consumer.assignment() else None
        return None if end is None else max(0, end - self._consumer.position(where))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets asynchronously, for lag displays only, never for recovery. Needs `group_id`."""
        new = {TopicPartition(*where): OffsetAndMetadata(offset, "", -1) for where, offset in offsets.items()}
        self._consumer.commit_async(new)

    def close(self) -> None:
        self._open.close()

    def _seek_to_beginning(self, error: OffsetOutOfRangeError) -> None:
        """Offset 0 means the oldest retained record; any other missing offset is an error."""
        (gone,) = error.args
        if any(gone.values()):
            raise InvalidData(
                f"the log no longer has these offsets: {gone}; Kafka's retention must exceed the longest outage "
                "of its readers. `recsys stream replay` restores events from the lake"
            )
        for where, first in self._consumer.beginning_offsets(list(gone)).items():
            self._consumer.seek(where, first)

    def _new_consumer(self, **options: Any) -> Any:
        with kafka_errors(self._bootstrap):
            consumer = KafkaConsumer(
                bootstrap_servers=self._bootstrap,
                enable_auto_commit=False,
                auto_offset_reset="none",
                reconnect_backoff_max_ms=1_000,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                **{"bootstrap_timeout_ms": CONNECT_TIMEOUT_MS} | options,
            )
        self._open.callback(consumer.close)
        return consumer

    def _describe(self, topic: str) -> Any:
        with kafka_errors(self._bootstrap):
            (found,) = self._admin.describe_topics([str(topic)])
        if found["error_code"]:
            raise Unavailable(f"Kafka at {self._bootstrap} has no topic {topic}; `recsys up` creates it")
        return found

    def _check_identity(self, now: bool = False) -> None:
        """Check once a second, on another thread, that each topic still has its id. `now`: check and wait.
        Raises `LogReplaced`: a topic has another id."""
        if now:
            self._asking = None  # a pending answer may predate the error that led here
        if self._asking is None and (now or time.monotonic() - self._checked >= IDENTITY_CHECK_S):
            self._asking = self._asker.submit(self._replaced, dict(self._log_ids))
            self._checked = time.monotonic()
        if self._asking is not None and (now or self._asking.done()):
            asked, self._asking = self._asking, None
            if replaced := asked.result():
                raise LogReplaced(f"topic {replaced} was deleted and created again; reclaim its partitions")

    def _replaced(self, log_ids: Mapping[str, str]) -> str:
        """The first topic whose id has changed; empty: none."""
        return next((t for t, known in log_ids.items() if str(self._describe(t)["topic_id"]) != known), "")


def _record(raw: Any, now_ms: int) -> Record:
    """Convert a record. With producer timestamps, the append time is capped at the time of reading."""
    return Record(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key.decode(errors="replace") if raw.key else "",
        value=raw.value or b"",
        append_time_ms=min(raw.timestamp, now_ms),
        headers=tuple(raw.headers),
    )
