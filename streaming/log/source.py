"""Read from Kafka, by offset."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from recsys.contracts.errors import AccessRefused, InvalidData, LogReplaced, Unavailable
from recsys.contracts.event_log import EventSource, Gap, HeldBack, Record, Unreadable
from recsys.kafka_connection import KafkaConnection
from streaming.log.connection import CONNECT_TIMEOUT_MS, client_options, kafka_errors
from streaming.log.fetcher import Broken, PartitionFetcher, Stable
from streaming.log.memory_kafka import FetchedEnds, MemoryKafkaFetcher, is_memory_kafka
from streaming.log.stops import RETRY_S, Stops
from streaming.log.topics import connect, never_create_topics
from streaming.log.transactions import HELD_BACK_S, open_transactions

IDENTITY_CHECK_S = 1.0
_COMMIT_ALL_S = 600.0

Partition = tuple[str, int]

_log = structlog.get_logger(__name__)


class KafkaSource:
    """`EventSource` on Kafka: reads the partitions that `seek` named, from there on."""

    def __init__(self, kafka: KafkaConnection, accept_gap: bool = False, **options: Any) -> None:
        """`accept_gap`: pass records that the log has deleted before they were read, instead of raising an error.
        `options`: passed to `KafkaConsumer`. Seeking to offset 0 means the oldest record.
        Raises `Unavailable`: no broker answers, or it refuses this client."""
        self._kafka = kafka
        self._accept_gap = accept_gap
        self._gaps: list[Gap] = []
        self._log_ids: dict[str, str] = {}
        self._counts: dict[str, int] = {}  # partitions
        self._checked = 0.0
        self._committed: dict[Partition, int] = {}
        self._all_committed = 0.0
        self._asking: Future[str] | None = None  # how a topic has changed; empty: none has
        self._open = contextlib.ExitStack()
        with self._open:  # closes what is open when the next is not reachable
            self._consumer = self._new_consumer(**options)
            self.is_memory_kafka = is_memory_kafka(self._consumer)
            self._end_of = FetchedEnds(self._new_consumer) if self.is_memory_kafka else self._listed_end
            self._stops = Stops(kafka, self._consumer, self._new_consumer)
            self._admin = self._open.enter_context(connect(kafka))
            self._asker = self._open.enter_context(ThreadPoolExecutor(1, "log-identity"))
            self._open = self._open.pop_all()

    @classmethod
    def once_reachable(
        cls,
        kafka: KafkaConnection,
        stop: threading.Event,
        waits: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> "KafkaSource | None":
        """A source as soon as a broker answers; None: `stop` was set before. `waits` is called before each attempt.
        Raises `AccessRefused`: waiting would not help."""
        while not stop.is_set():
            waits()
            try:
                return cls(kafka, **options)
            except AccessRefused:
                raise
            except Unavailable as error:
                _log.warning("waits for Kafka", reason=str(error))
                stop.wait(RETRY_S)
        return None

    def partitions(self, topic: str) -> int:
        (found,) = self._describe(topic)
        return len(found["partitions"])

    def log_id(self, topic: str) -> str:
        """The topic's id. From now on `poll` raises `LogReplaced` when the id or the number of partitions changes."""
        (found,) = self._describe(topic)
        self._counts[str(topic)] = len(found["partitions"])
        self._log_ids[str(topic)] = log_id = str(found["topic_id"])
        return log_id

    def seek(self, topic: str, partition: int, offset: int) -> None:
        if topic not in self._log_ids:
            self.log_id(topic)
        where = self._where(topic, partition)
        if where not in self._consumer.assignment():
            self._consumer.assign([*self._consumer.assignment(), where])
        self._consumer.seek(where, offset)
        self._stops.forget(where)

    def unseek(self, topic: str, partition: int) -> None:
        gone = self._where(topic, partition)
        self._stops.forget(gone)
        self._consumer.assign([where for where in self._consumer.assignment() if where != gone])

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        self.check_identity()
        with kafka_errors(self._kafka):
            try:
                found = self._consumer.poll(timeout_ms=int(timeout_s * 1_000), max_records=max_records)
            except OffsetOutOfRangeError as error:
                self.check_identity(now=True)
                self._pass_gap(*error.args)
                return []
            except LogTruncationError as error:
                self.check_identity(now=True)  # a topic that was created again has other records, too
                self._refuse_other_records(error.divergent_offsets)
                return []
            if not found and (reason := self._consumer._manager.refused):
                raise AccessRefused(f"Kafka at {self._kafka.bootstrap} {reason}")
            records: list[Record] = []
            now_ms = time.time_ns() // 1_000_000
            for where, batch in found.items():
                broken = batch.pop() if isinstance(batch[-1], Broken) else None
                if batch:
                    self._stops.forget(where)
                if broken is not None:
                    self._stops.stop(where, broken)
                topic = self._kafka.named(where.topic)
                records += [_record(raw, topic, now_ms) for raw in batch]
            return records + self._stops.passed(self._log_ids)

    def gaps(self) -> list[Gap]:
        passed, self._gaps = self._gaps, []
        return passed

    def unreadable(self) -> list[Unreadable]:
        return self._stops.all()

    def held_back(self) -> list[HeldBack]:
        now = time.monotonic()
        return [
            HeldBack(
                self._kafka.named(where.topic),
                where.partition,
                stable.offset,
                stable.held_back,
                now - stable.since,
            )
            for where, stable in self._stable()
            if stable.held_back and now - stable.since >= HELD_BACK_S
        ]

    def open_transactions(self, topic: str) -> list[str]:
        """What holds its partitions back, by name: asked of the brokers, for `recsys status`."""
        if self.is_memory_kafka:  # it has none
            return []
        partitions = [self._where(topic, number) for number in range(self.partitions(topic))]
        with kafka_errors(self._kafka):
            return open_transactions(self._admin, partitions)

    def position(self, topic: str, partition: int) -> int:
        """Not `KafkaConsumer.position`, which may ask the brokers, and wait for them."""
        where = self._where(topic, partition)
        return int(self._consumer._subscription.assignment[where].position.offset)

    def end_offset(self, topic: str, partition: int) -> int:
        with kafka_errors(self._kafka):
            return self._end_of(self._where(topic, partition))

    def lag(self, topic: str, partition: int) -> int | None:
        """Number of unread records at the last fetch; None before the first."""
        where = self._where(topic, partition)
        is_assigned = self._consumer._subscription.is_assigned(where)
        stable = self._consumer._fetcher.stable.get(where) if is_assigned else None
        return None if stable is None else max(0, stable.offset - self.position(topic, partition))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets asynchronously, for lag displays only, never for recovery. Needs `group_id`.
        Those that have not changed are committed once in a while, since Kafka forgets old ones."""
        if time.monotonic() - self._all_committed >= _COMMIT_ALL_S:
            self._committed, self._all_committed = {}, time.monotonic()
        changed = {where: offset for where, offset in offsets.items() if self._committed.get(where) != offset}
        if changed:
            self._consumer.commit_async(
                {self._where(*where): OffsetAndMetadata(offset, "", -1) for where, offset in changed.items()}
            )
            self._committed |= changed

    def check_identity(self, now: bool = False) -> None:
        """Check once a second, on another thread, that each topic is still the same. `now`: check and wait.
        Raises `LogReplaced`: a topic has another id, or another number of partitions."""
        if now:
            self._asking = None  # a pending answer may predate the error that led here
        if self._asking is None and (now or time.monotonic() - self._checked >= IDENTITY_CHECK_S):
            self._asking = self._asker.submit(self._changed, dict(self._log_ids), dict(self._counts))
            self._checked = time.monotonic()
        if self._asking is not None and (now or self._asking.done()):
            asked, self._asking = self._asking, None
            if changed := asked.result():
                raise LogReplaced(f"{changed}; reclaim its partitions")

    def readable_from(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Where another reader of sought partitions can begin: at these offsets, or at the oldest record where the log
        has deleted that one, which `gaps` names. Raises `InvalidData` as `poll` does."""
        wanted = {self._where(*where): at for where, at in offsets.items()}
        with kafka_errors(self._kafka):
            oldest = self._listed(self._consumer.beginning_offsets, wanted)
            ends = self._listed(self._consumer.end_offsets, wanted)
            if gone := {where: at for where, at in wanted.items() if not oldest[where] <= at <= ends[where]}:
                self._pass_gap(gone)
        return {where: max(at, oldest[self._where(*where)]) for where, at in offsets.items()}

    def close(self) -> None:
        self._open.close()

    def _where(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._kafka.in_kafka(topic), partition)

    def _refuse_other_records(self, divergent: Mapping[TopicPartition, Any]) -> None:
        """Raises `InvalidData`: a partition was cut back and written again. One that was sought or given up since is
        meant no longer: kafka-python keeps what it has found until the next poll."""
        for where, kept in divergent.items():
            state = self._consumer._subscription.assignment.get(where)
            if state is not None and state.position is not None and state.position.leader_epoch >= 0:
                until = f" from offset {kept.offset} on" if kept else ""
                raise _lost(where, f"has other records{until} than those that were read")

    def _pass_gap(self, gone: Mapping[TopicPartition, int]) -> None:
        """Continue at the oldest records. Offset 0 asks for that; any other one that is `gone` is a gap.
        Raises `InvalidData`: a gap that may not be passed, or an offset beyond the end of the log."""
        oldest = self._listed(self._consumer.beginning_offsets, gone)
        for where, offset in gone.items():
            if offset > oldest[where]:
                raise _lost(where, f"ends before offset {offset}, to which it was read")
        gaps = [
            Gap(self._kafka.named(w.topic), w.partition, offset, oldest[w])
            for w, offset in gone.items()
            if offset
        ]
        if gaps and not self._accept_gap:
            raise InvalidData(
                f"Kafka has deleted records before they were read: {', '.join(map(str, gaps))}; its retention must "
                "exceed the longest outage of a reader. --accept-gap continues at the oldest record; what to do about "
                "those that are lost: docs/operations.md, a gap"
            )
        for where, first in oldest.items():
            self._consumer.seek(where, first)
        for gap in gaps:
            _log.error("passed records that Kafka has deleted before they were read", records=str(gap))
        self._gaps += gaps

    def _new_consumer(self, **options: Any) -> Any:
        with kafka_errors(self._kafka):
            if group := options.get("group_id"):
                options["group_id"] = self._kafka.in_kafka(group)
            consumer = KafkaConsumer(
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                metrics_enabled=False,  # nobody reads them, and each fetch would pay for them
                **client_options(self._kafka) | options,
            )
        self._open.callback(consumer.close)
        never_create_topics(consumer._cluster)
        # KafkaConsumer has no parameter for it
        consumer._fetcher.__class__ = MemoryKafkaFetcher if is_memory_kafka(consumer) else PartitionFetcher
        return consumer

    def _listed_end(self, where: TopicPartition) -> int:
        return self._listed(self._consumer.end_offsets, [where])[where]

    def _listed(
        self, ask: Callable[..., Any], partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Raises `Unavailable`: a partition has no leader now."""
        try:
            return dict(ask(list(partitions), CONNECT_TIMEOUT_MS))  # without a time it would wait for ever
        except KeyError as error:  # kafka-python leaves out those whose leader it does not know yet
            raise Unavailable(
                f"Kafka at {self._kafka.bootstrap} does not list the offsets of {error}"
            ) from error

    def _stable(self) -> Iterator[tuple[TopicPartition, Stable]]:
        """What fetches said of the assigned partitions."""
        assigned = self._consumer.assignment()
        return (
            (where, stable) for where, stable in self._consumer._fetcher.stable.items() if where in assigned
        )

    def _describe(self, *topics: str) -> list[Any]:
        """In one request, since it is asked once a second."""
        with kafka_errors(self._kafka):
            found = list(self._admin.describe_topics([self._kafka.in_kafka(topic) for topic in topics]))
        for topic in found:
            if topic["error_code"]:
                name = topic["name"]
                raise Unavailable(
                    f"Kafka at {self._kafka.bootstrap} has no topic {name}; `recsys topics create` creates it"
                )
        return found

    def _changed(self, log_ids: Mapping[str, str], counts: Mapping[str, int]) -> str:
        """How the first topic that has changed did; empty: none has."""
        for found in self._describe(*log_ids) if log_ids else ():
            topic = self._kafka.named(found["name"])
            if str(found["topic_id"]) != log_ids[topic]:
                return f"topic {topic} was deleted and created again"
            if (count := len(found["partitions"])) != counts[topic]:
                return f"topic {topic} has {count} partitions now, not {counts[topic]}"
        return ""


def find_unreadable(source: EventSource, topic: str, partition: int, offset: int) -> Unreadable:
    """What stops a partition at `offset`.
    Raises `InvalidData`: nothing does; the message says what is there."""
    where = f"{topic}/{partition}"
    if partition >= (count := source.partitions(topic)):
        raise InvalidData(f"topic {topic} has {count} partitions, numbered from 0; there is no {where}")
    if offset >= (end := source.end_offset(topic, partition)):
        raise InvalidData(f"{where} ends at offset {end}; there is nothing to skip")
    source.seek(topic, partition, offset)
    deadline = time.monotonic() + 2 * CONNECT_TIMEOUT_MS / 1_000
    while time.monotonic() < deadline:
        if any((record.topic, record.partition) == (topic, partition) for record in source.poll(0.2, 1)):
            raise InvalidData(f"{where} can be read at offset {offset}; there is nothing to skip")
        for found in source.unreadable():
            if (found.topic, found.partition) == (topic, partition):
                return found
    raise Unavailable(f"{where} gave neither a record nor an error at offset {offset}; try again")


def _lost(where: TopicPartition, what: str) -> InvalidData:
    return InvalidData(
        f"{where.topic}/{where.partition} {what}: Kafka has lost acknowledged records (an unclean leader election, an "
        "older backup); rebuild the store in another namespace: `recsys features backfill`"
    )


def _record(raw: Any, topic: str, now_ms: int) -> Record:
    """Convert a record. With producer timestamps, the append time is capped at the time of reading."""
    return Record(
        topic=topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key.decode(errors="replace") if raw.key else "",
        value=raw.value or b"",
        append_time_ms=min(raw.timestamp, now_ms),
        headers=tuple((name, value or b"") for name, value in raw.headers),
        tombstone=raw.value is None,
    )
