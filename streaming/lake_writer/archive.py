"""The archiver: writes the event log to the lake, as Parquet files by event day.

Each record is written exactly once: `streaming.lake_writer.commit` makes the files and the next offsets visible in
one step, and a restart reads from those offsets. File names carry topic, log, partition, first and last offset; rows
carry partition and offset.

* `events` and `impressions` → `lake/events`, with each impression expanded into its impression events, so that
  `lake/events` holds exactly what changes a feature. `streaming.acceptance` decides for the archiver as for the worker.
* `impressions` → `lake/impressions`, with the served feature values.
* `items` and `users` → `lake/items/items.parquet`, `lake/users/users.parquet` and, of merged users,
  `lake/merges/merges.parquet`, read by the next training.

Two kinds of records are skipped and counted: those that `recsys stream replay` read from the lake (header `replay`),
and those that the feature worker dead-letters because they break the contract or are late.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import structlog

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidEvent, LogReplaced, Unavailable
from recsys.contracts.event_log import EventSource, Record
from recsys.contracts.events import Event
from recsys.contracts.impressions import Impression
from recsys.contracts.merges import UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import GROWING, check_partitions
from recsys.contracts.types import Topic
from recsys.datasets.changed import items_after, users_after
from recsys.lake.commit import rewriting
from recsys.lake.lake import (
    DAY_PREFIX,
    EVENTS,
    IMPRESSIONS,
    events_table,
    impressions_table,
    split_by_day,
)
from recsys.lake.merges import merges_after
from streaming.acceptance import REPLAY_HEADER, Late, accept, accept_item_change, accept_user_change
from streaming.lake_writer.commit import (
    Place,
    added_partitions,
    beat,
    check_added,
    commit,
    exclusive,
    recover,
)
from streaming.log import KafkaSource
from streaming.settings import StreamSettings

TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS, Topic.ITEMS, Topic.USERS)
MAX_RECORDS_PER_POLL = 2_000
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


def main(settings: StreamSettings, stop: threading.Event, accept_gap: bool = False) -> "Totals":
    limits = settings.archive_max_rows, settings.archive_max_seconds
    with exclusive(settings.lake):
        waits = partial(beat, settings.lake)
        source = KafkaSource.once_reachable(settings.kafka, stop, waits, accept_gap=accept_gap)
        if source is None:
            return Totals()
        with closing(source):
            rules, partitions = settings.time_rules, settings.partitions
            archiver = Archiver(source, settings.lake, *limits, rules=rules, partitions=partitions)
            archiver.run(stop)
    return archiver.totals


@dataclass
class Totals:
    """Counters of one archiver process: records, except `rows` and `commits`."""

    archived: int = 0
    replayed: int = 0  # skipped: they came from the lake
    poison: int = 0  # skipped: the feature worker dead-letters them
    late: int = 0  # skipped, too: dead-lettered for being late
    lost: int = 0  # Kafka had deleted them (`--accept-gap`)
    rows: int = 0
    commits: int = 0


@dataclass
class _Buffer:
    """Records of one partition that are not committed yet: offsets from `first` up to, not including, `next`."""

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
    merges: list[UserMerge] = field(default_factory=list)


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
        partitions: int = 0,
    ) -> None:
        """`rules`, `partitions`: the same as the feature worker's; 0 partitions: as many as the topics have now."""
        self._rules = rules or TimeRules()
        self._partitions = partitions
        self._source = source
        self._lake = lake
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._monotonic = monotonic
        self._buffers: dict[tuple[str, int], _Buffer] = {}
        self._since = monotonic()
        self._checkpoint = recover(lake)
        self.totals = Totals()

    def run(self, stop: threading.Event) -> None:
        """Archive until `stop`, then flush. Outages of the log are waited out.
        Raises `InvalidConfig`: the topics have another number of partitions than configured, or than the lake knows."""
        while not stop.is_set():
            try:
                self.step()
            except Unavailable as error:
                _log.warning("archiver waits for the log", error=str(error))
                stop.wait(RETRY_S)
            beat(self._lake, self._source.unreadable())
        self.flush()

    def step(self, timeout_s: float = 0.5) -> int:
        """Poll once; flush when enough rows or time have accumulated. Returns the number of records read."""
        try:
            if not self._buffers:  # the first step, or an outage interrupted `_attach`
                self._attach()
            records = self._source.poll(timeout_s, MAX_RECORDS_PER_POLL)
        except LogReplaced as error:
            _log.warning("the log was replaced", error=str(error))
            self.flush()  # records of the old log stay valid
            self._attach()
            return 0
        for gap in self._source.gaps():
            self._buffers[gap.topic, gap.partition].next = gap.next
            self.totals.lost += gap.next - gap.first
        for record in records:
            self._take(record)
        rows = sum(w.size for w in self._buffers.values())
        if rows >= self._max_rows or self._monotonic() - self._since >= self._max_seconds:
            self.flush()
        return len(records)

    def flush(self) -> None:
        """Commit everything read so far to the lake, with the next offsets."""
        self._since = self._monotonic()
        for where, w in self._buffers.items():  # markers of transactions have offsets, too
            w.next = max(w.next, self._source.position(*where))
        read = {where: w for where, w in self._buffers.items() if w.next > w.first}
        if not read:
            return
        moved = {f"{topic}/{p}": Place(w.log_id, w.next, w.watermark_ms) for (topic, p), w in read.items()}
        files = [file for (topic, p), w in read.items() for file in _files(topic, p, w)]
        with rewriting(self._lake):
            files += items_after(self._lake, [change for w in read.values() for change in w.items])
            files += users_after(self._lake, [change for w in read.values() for change in w.users])
            files += merges_after(self._lake, [merge for w in read.values() for merge in w.merges])
            commit(self._lake, files, self._checkpoint | moved)
        self._checkpoint |= moved
        for where, w in read.items():
            self.totals.archived += w.size
            self._buffers[where] = _Buffer(w.log_id, w.next, w.next, w.watermark_ms)
        self.totals.rows += sum(table.num_rows for _, table in files)
        self.totals.commits += 1

    def _attach(self) -> None:
        """Seek every partition to the lake's checkpoint."""
        self._buffers = {}
        buffers: dict[tuple[str, int], _Buffer] = {}
        added = added_partitions(self._lake)
        for topic in TOPICS:
            log_id, found = self._source.log_id(topic), self._source.partitions(topic)
            self._partitions = self._partitions or found
            check_partitions(topic, found, self._partitions)
            if topic in GROWING:
                check_added(self._lake, topic, found)
            for partition in range(found):
                name = f"{topic}/{partition}"
                known = self._checkpoint.get(name, Place(log_id, 0, added.get(name, 0)))
                start = known.offset if known.log_id == log_id else 0
                self._source.seek(topic, partition, start)
                # the watermark outlives the log, as it does in the store
                buffers[topic, partition] = _Buffer(log_id, start, start, known.watermark_ms)
        self._buffers = buffers

    def _take(self, record: Record) -> None:
        buffer = self._buffers[record.topic, record.partition]
        buffer.next = record.offset + 1
        try:
            if record.topic in (Topic.ITEMS, Topic.USERS):
                if record.topic == Topic.ITEMS:
                    buffer.items.append(accept_item_change(record))
                elif isinstance(change := accept_user_change(record), UserMerge):
                    buffer.merges.append(change)
                elif change is not None:
                    buffer.users.append(change)
                buffer.size += 1
                return
            events, _, impression = accept(record, buffer.watermark_ms, self._rules)
        except InvalidEvent as error:
            self.totals.late += isinstance(error, Late)
            self.totals.poison += not isinstance(error, Late)
            return
        buffer.watermark_ms = max([buffer.watermark_ms, *(e.event_time_ms for e in events)])
        if any(name == REPLAY_HEADER for name, _ in record.headers):
            self.totals.replayed += 1
            return
        buffer.size += 1
        buffer.events += events
        buffer.event_offsets += [record.offset] * len(events)
        if impression is not None:
            buffer.impressions.append(impression)
            buffer.impression_offsets.append(record.offset)


def _files(topic: str, partition: int, buffer: _Buffer) -> Iterator[tuple[Path, pa.Table]]:
    """Yield each file's path below the lake and its rows."""
    name = f"{topic}-{buffer.log_id[-8:]}-p{partition:04d}-{buffer.first:012d}-{buffer.next - 1:012d}.parquet"
    tables = {
        EVENTS: events_table(buffer.events, partition, buffer.event_offsets),
        IMPRESSIONS: impressions_table(buffer.impressions, partition, buffer.impression_offsets),
    }
    for kind, table in tables.items():
        for day, rows in split_by_day(table):
            yield Path(kind) / f"{DAY_PREFIX}{day}" / name, rows
