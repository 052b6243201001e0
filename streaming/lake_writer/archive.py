"""The archiver: the event log's long memory, as Parquet files of the lake by event day.

Each record ends up in the lake exactly once: `streaming.lake_writer.commit` makes the files and the offsets after them
visible in one step, and reading starts again at those offsets. File names carry topic, log, partition, first
and last offset; rows carry partition and offset.

The topic `impressions` becomes rows of `lake/impressions` and, expanded, impression events of `lake/events`,
so that `lake/events` holds everything that changes a feature, and nothing else:
`streaming.worker.batches.accept` decides
for the archiver as for the feature worker, with the same watermarks. The topics `items` and `users` change
`lake/items/items.parquet` and `lake/users/users.parquet`, which the next model is trained on. Two kinds of records
are passed over and counted: those that `recsys stream replay` read from the lake itself (header `replay`), and those
that the feature worker sends to the dead letters, because they break the contract or are late.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import structlog

from recsys.contracts.errors import InvalidEvent, LogReplaced, Unavailable
from recsys.contracts.event_log import EventSource, Record
from recsys.contracts.events import Event
from recsys.contracts.impressions import Impression
from recsys.contracts.item_changes import ItemChange
from recsys.contracts.types import Topic
from recsys.contracts.user_changes import UserChange
from recsys.datasets.changed import items_after, users_after
from recsys.lake.lake import (
    DAY_PREFIX,
    EVENTS,
    IMPRESSIONS,
    events_table,
    impressions_table,
    rewriting,
    split_by_day,
)
from streaming.lake_writer.commit import ALIVE, FOLDER, Place, commit, exclusive, recover
from streaming.log import KafkaSource
from streaming.replay import REPLAY_HEADER
from streaming.settings import StreamSettings
from streaming.worker.batches import Late, accept, accept_item_change, accept_user_change
from streaming.worker.lateness import TimeRules

TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS, Topic.ITEMS, Topic.USERS)
MAX_RECORDS_PER_POLL = 2_000
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


def main(settings: StreamSettings, stop: threading.Event) -> "Totals":
    """Archive until `stop`; returns what was done."""
    with exclusive(settings.lake):
        source = KafkaSource(settings.kafka_bootstrap)
        try:
            archiver = Archiver(
                source,
                settings.lake,
                settings.archive_max_rows,
                settings.archive_max_seconds,
                rules=settings.time_rules,
            )
            archiver.run(stop)
        finally:
            source.close()
    return archiver.totals


@dataclass
class Totals:
    """What one archiver process has done. Records, except `rows` and `commits`."""

    archived: int = 0
    replayed: int = 0  # passed over: they came from the lake
    poison: int = 0  # passed over: the feature worker dead-letters them
    late: int = 0  # the same, because they came too late
    rows: int = 0
    commits: int = 0


@dataclass
class _Waiting:
    """What was read of one partition since its last commit: offsets from `first` to before `next`."""

    log_id: str
    first: int
    next: int
    watermark_ms: int
    size: int = 0  # records
    events: list[Event] = field(default_factory=list)
    event_offsets: list[int] = field(default_factory=list)
    impressions: list[Impression] = field(default_factory=list)
    impression_offsets: list[int] = field(default_factory=list)
    items: list[ItemChange] = field(default_factory=list)
    users: list[UserChange] = field(default_factory=list)


class Archiver:
    """Reads the topics into the lake. Not thread-safe; hold `exclusive(lake)` around it."""

    def __init__(
        self,
        source: EventSource,
        lake: Path,
        max_rows: int = 50_000,
        max_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        rules: TimeRules | None = None,
    ) -> None:
        """`rules`: those of the feature worker."""
        self._rules = rules or TimeRules()
        self._source = source
        self._lake = lake
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._monotonic = monotonic
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._since = monotonic()
        self._checkpoint = recover(lake)
        self.totals = Totals()
        self._attach()

    def run(self, stop: threading.Event) -> None:
        """Archive until `stop`, then write what waits. Outages of the log are waited out."""
        alive = self._lake / FOLDER / ALIVE
        while not stop.is_set():
            try:
                self.step()
            except Unavailable as error:
                _log.warning("the archiver waits for the log", error=str(error))
                stop.wait(RETRY_S)
            alive.touch()
        self.flush()

    def step(self, timeout_s: float = 0.5) -> int:
        """Read once, write files when it is time. Returns the number of records read."""
        try:
            if not self._waiting:  # the log went away while its places were looked up
                self._attach()
            records = self._source.poll(timeout_s, MAX_RECORDS_PER_POLL)
        except LogReplaced as error:
            _log.warning("the log starts anew", error=str(error))
            self.flush()  # what the old one gave is good
            self._attach()
            return 0
        for record in records:
            self._take(record)
        rows = sum(w.size for w in self._waiting.values())
        if rows >= self._max_rows or self._monotonic() - self._since >= self._max_seconds:
            self.flush()
        return len(records)

    def flush(self) -> None:
        """Make everything read so far part of the lake."""
        self._since = self._monotonic()
        read = {where: w for where, w in self._waiting.items() if w.next > w.first}
        if not read:
            return
        moved = {f"{topic}/{p}": Place(w.log_id, w.next, w.watermark_ms) for (topic, p), w in read.items()}
        files = [file for (topic, p), w in read.items() for file in _files(topic, p, w)]
        with rewriting(self._lake):
            files += items_after(self._lake, [change for w in read.values() for change in w.items])
            files += users_after(self._lake, [change for w in read.values() for change in w.users])
            commit(self._lake, files, self._checkpoint | moved)
        self._checkpoint |= moved
        for where, w in read.items():
            self.totals.archived += w.size
            self._waiting[where] = _Waiting(w.log_id, w.next, w.next, w.watermark_ms)
        self.totals.rows += sum(table.num_rows for _, table in files)
        self.totals.commits += 1

    def _attach(self) -> None:
        """Seek every partition to where the lake is."""
        self._waiting = {}
        waiting: dict[tuple[str, int], _Waiting] = {}
        for topic in TOPICS:
            log_id = self._source.log_id(topic)
            self._partitions = self._source.partitions(topic)
            for partition in range(self._partitions):
                known = self._checkpoint.get(f"{topic}/{partition}", Place(log_id, 0))
                start = known.offset if known.log_id == log_id else 0
                self._source.seek(topic, partition, start)
                # as in the store, the watermark outlives the log
                waiting[topic, partition] = _Waiting(log_id, start, start, known.watermark_ms)
        self._waiting = waiting

    def _take(self, record: Record) -> None:
        waiting = self._waiting[record.topic, record.partition]
        waiting.next = record.offset + 1
        try:
            if record.topic in (Topic.ITEMS, Topic.USERS):
                if record.topic == Topic.ITEMS:
                    waiting.items.append(accept_item_change(record, self._partitions))
                else:
                    waiting.users.append(accept_user_change(record, self._partitions))
                waiting.size += 1
                return
            events, _, impression = accept(record, waiting.watermark_ms, self._partitions, self._rules)
        except InvalidEvent as error:
            if isinstance(error, Late):
                self.totals.late += 1
            else:
                self.totals.poison += 1
            return
        waiting.watermark_ms = max([waiting.watermark_ms, *(e.event_time_ms for e in events)])
        if any(name == REPLAY_HEADER for name, _ in record.headers):
            self.totals.replayed += 1
            return
        waiting.size += 1
        waiting.events += events
        waiting.event_offsets += [record.offset] * len(events)
        if impression is not None:
            waiting.impressions.append(impression)
            waiting.impression_offsets.append(record.offset)


def _files(topic: str, partition: int, waiting: _Waiting) -> Iterator[tuple[Path, pa.Table]]:
    """Where each day's rows go, below the lake. A topic is of events, of impressions, or of neither."""
    name = (
        f"{topic}-{waiting.log_id[-8:]}-p{partition:04d}-{waiting.first:012d}-{waiting.next - 1:012d}.parquet"
    )
    tables = {
        EVENTS: events_table(waiting.events, partition, waiting.event_offsets),
        IMPRESSIONS: impressions_table(waiting.impressions, partition, waiting.impression_offsets),
    }
    for kind, table in tables.items():
        for day, rows in split_by_day(table):
            yield Path(kind) / f"{DAY_PREFIX}{day}" / name, rows
