"""The feature worker: applies each event of its partitions to the online store with an exactly-once effect.

The store, not Kafka, is the source of truth for offsets:

1. `_claim`: claiming a partition gives it a new epoch and returns the stored offset and watermark. Read from there.
2. `_dead_letter`: a record that breaks the contract, or is late, goes to the dead letters under the key
   `topic:partition:offset` and is acknowledged before its batch is applied.
3. `_apply`: one atomic store call per batch of about 100 events. An old epoch (FENCED) or missing records (GAP)
   refuse the batch; records below the stored offset and known event ids are skipped; states, offset and watermark
   are written together. Item and user changes are written before their batch's offset, since they are idempotent.
4. `_report`: offsets are also committed to Kafka, but only so that its tools can show the lag.
5. `_accepted`, `_give_up`: after FENCED, GAP or an outage, give the claim up and restart at 1.

Workers share the partitions by heartbeats in the store: partition p belongs to live worker number p modulo their
count. When two workers disagree for a moment, the epoch decides whose writes count.

The next batches are read and parsed while the store applies the last ones, in order. When it refuses one, or is away,
it refuses those behind it as well: they do not begin at its offset. Records read after a claim was given up are
discarded: reading restarts at the stored offset.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

import structlog
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
)
from tenacity.wait import wait_exponential_jitter

from recsys.contracts.errors import InvalidEvent, LogReplaced, Unavailable
from recsys.contracts.event_log import EventSink, EventSource, Gap
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import check_partitions
from recsys.contracts.types import Topic
from recsys.observability.tracing import Traces
from recsys.store.base import Applied, Batch, FeatureStore, Outcome
from streaming.acceptance import Late, Misrouted
from streaming.log import KafkaSource, Partition
from streaming.log.dead_letter import send_dead_letter
from streaming.worker.batches import Claim, Prepared, batches
from streaming.worker.metrics import WorkerMetrics

TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS, Topic.ITEMS, Topic.USERS)

_partition = attrgetter("topic", "partition")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`max_poll`: records per poll. `max_batch`: events per store call, during which Redis is blocked.
    `in_flight`: batches that are parsed before the store has applied the first of them.
    `fenced_pause_s`: wait before a partition is claimed back from another worker. `check_s`: between two checks that
    the store still has the offsets of idle partitions; after an outage all are claimed again anyway."""

    partitions: int = 4
    rules: TimeRules = field(default_factory=TimeRules)
    max_poll: int = 500
    max_batch: int = 100
    in_flight: int = 4
    poll_s: float = 0.5
    fenced_pause_s: float = 1.0
    max_backoff_s: float = 5.0
    heartbeat_s: float = 1.0
    dead_after_s: float = 5.0
    report_s: float = 1.0
    check_s: float = 3.0


class FeatureWorker:
    """One worker, on one thread. `name` must differ from every other worker's."""

    def __init__(
        self,
        store: FeatureStore,
        sink: EventSink,
        config: WorkerConfig | None = None,
        name: str = "",
        traces: Traces | None = None,
    ) -> None:
        """The partitions are shared with the other workers, unless `own` fixes them."""
        self._traces = traces
        self._store = store
        self._sink = sink
        self._config = config or WorkerConfig()
        self.metrics = WorkerMetrics()
        self._owned: dict[Partition, float] = {}  # → earliest monotonic time of the next claim
        self._claims: dict[Partition, Claim] = {}
        self._counts = dict.fromkeys(TOPICS, self._config.partitions)  # partitions; at `_check` as they are
        self._pending: deque[tuple[Prepared, Future[Applied]]] = deque()
        self._applier = ThreadPoolExecutor(1, "apply")
        self._reported = self._checked = 0.0
        self._positions: dict[Partition, int] = {}  # at the last check of the claims
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._shared_at = -math.inf  # time of the last assignment; +inf: fixed

    def own(self, numbers: Iterable[int]) -> None:
        self._shared_at = math.inf
        self._owned = {(topic, number): 0.0 for topic in TOPICS for number in numbers}

    def run(self, source: EventSource, stop: threading.Event) -> None:
        """Work until `stop`, then finish the batch in flight. Outages of Redis and Kafka are waited out.
        Raises `InvalidConfig`: the topics have another number of partitions than configured, or than the store knows.
        Raises `FingerprintMismatch`: the store holds the states of other features."""
        recover = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=self._config.max_backoff_s),
            stop=stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=_say_what_for,
        )
        with contextlib.suppress(RetryError):  # stopped in the meantime
            recover(self._restart, source)
        while not stop.is_set():
            try:
                self.step(source)
            except (Unavailable, LogReplaced) as error:
                _log.warning("feature worker restarts from the stored offsets", reason=str(error))
                self.metrics.outages.inc()
                self._give_up()
                with contextlib.suppress(RetryError):
                    recover(self._restart, source)
        with contextlib.suppress(Unavailable):  # the next owner rereads what is not stored
            self._finish()
            self._report(source)
            self._store.leave(self.name)
        self._applier.shutdown()

    def step(self, source: EventSource) -> int:
        """Poll once and apply; the last batches may stay in flight. Returns the number of records read."""
        self.metrics.stepped()
        if time.monotonic() - self._shared_at >= self._config.heartbeat_s:
            self._share(source)
        self._claim(source)
        records = source.poll(self._config.poll_s, self._config.max_poll)
        for gap in source.gaps():
            self._pass(gap)
        records.sort(key=_partition)  # stable: in offset order within each
        for partition, run in groupby(records, key=_partition):
            claim = self._claims.get(partition)
            if claim is None:
                continue
            config = self._config
            for prepared in batches(claim, run, config.partitions, config.rules, config.max_batch):
                self._dead_letter(prepared)
                self._finish(self._config.in_flight - 1)
                if self._claims.get(partition) is not claim:
                    break  # given up while this batch was parsed
                self._pending.append((prepared, self._applier.submit(self._apply, prepared)))
        if not records:
            self._finish()
        if time.monotonic() - self._reported >= self._config.report_s:
            self._pass_markers(source)
            self._report(source)
        if time.monotonic() - self._checked >= self._config.check_s:
            self._check_claims()
        return len(records)

    def _restart(self, source: EventSource) -> None:
        self.metrics.stepped()  # waiting is working
        self._check(source)
        self._claim(source)

    def _check(self, source: EventSource) -> None:
        """Raises `InvalidConfig`: a topic has another number of partitions than configured."""
        self._counts = {topic: source.partitions(topic) for topic in TOPICS}
        for topic, found in self._counts.items():
            check_partitions(topic, found, self._config.partitions)

    def _share(self, source: EventSource) -> None:
        """Send a heartbeat and update the partitions that this worker owns."""
        live = self._store.workers(self.name, int(self._config.dead_after_s * 1_000))
        self._shared_at = time.monotonic()
        every = ((topic, number) for topic, count in self._counts.items() for number in range(count))
        mine = {(topic, number) for topic, number in every if live[number % len(live)] == self.name}
        lost = self._owned.keys() - mine
        if lost:
            self._finish()
        for where in lost:
            del self._owned[where]
            if self._claims.pop(where, None):
                source.unseek(*where)
        for where in mine - self._owned.keys():
            self._owned[where] = 0.0

    def _claim(self, source: EventSource) -> None:
        """(1) Claim owned partitions that are not claimed yet, and seek to the stored offset."""
        now = time.monotonic()
        for (topic, number), not_before in list(self._owned.items()):
            if (topic, number) in self._claims or now < not_before or number >= self._counts[Topic(topic)]:
                continue  # of fixed numbers, `items` and `users` have fewer once the others have grown
            stored = self._store.claim(topic, number, source.log_id(topic))
            source.seek(topic, number, stored.offset)
            claim = Claim(topic, number, stored.epoch, stored.offset, stored.watermark_ms)
            self._claims[topic, number] = claim
            self.metrics.claims.inc()
            _log.info("claimed", topic=str(topic), partition=number, offset=stored.offset, epoch=stored.epoch)

    def _pass(self, gap: Gap) -> None:
        """Store that the records of an accepted gap do not come; another start would find it again."""
        self._finish()
        claim = self._claims.get((gap.topic, gap.partition))
        if claim is None:
            return
        self.metrics.lost.labels(gap.topic, gap.partition).inc(gap.next - gap.first)
        self._move(claim, gap.next)

    def _dead_letter(self, prepared: Prepared) -> None:
        """(2) Write a batch's dead letters to the log before its offset is stored."""
        for record, error in prepared.refused:
            send_dead_letter(self._sink, record, str(error))
            self.metrics.dead_letters.labels(_kind(error)).inc()
        if prepared.refused:
            self._sink.flush()

    def _apply(self, prepared: Prepared) -> Applied:
        """(3) Runs on the applier thread. With traces on, each record that carries a trace gets a span."""
        began_ns = time.time_ns()
        self._store.change_items(prepared.items)
        self._store.change_users(prepared.users)
        self._store.merge_users(prepared.merges)
        applied = self._store.apply(prepared.batch)
        if self._traces is not None:
            _trace(self._traces, prepared, applied, began_ns)
        return applied

    def _finish(self, most: int = 0) -> None:
        """(3) Wait until no more than `most` batches are in flight."""
        while self._pending and (len(self._pending) > most or self._pending[0][1].done()):
            prepared, future = self._pending.popleft()
            self._applied(prepared, future.result())

    def _applied(self, prepared: Prepared, applied: Applied) -> None:
        if self._accepted(prepared.batch, applied):
            self.metrics.events.labels("applied").inc(applied.applied)
            self.metrics.events.labels("duplicate").inc(applied.duplicates)
            self.metrics.events.labels("skipped").inc(applied.skipped)
            self.metrics.clamped.inc(prepared.clamped)
            self.metrics.elsewhere.inc(prepared.elsewhere)
            if prepared.oldest_append_ms:
                self.metrics.freshness.observe(max(0.0, time.time() - prepared.oldest_append_ms / 1_000))

    def _pass_markers(self, source: EventSource) -> None:
        """Store that what has offsets but is no record, such as the markers of transactions, has been read, too:
        else it would count as lag until the partition's next event."""
        self._finish()
        for where, claim in list(self._claims.items()):
            if (position := source.position(*where)) > claim.position:
                self._move(claim, position)

    def _check_claims(self) -> None:
        """Apply an empty batch to idle partitions, to detect that the store has lost offsets.
        Without it, what Redis lost in a crash would be missing until the partition's next event."""
        self._checked = time.monotonic()
        self._finish()
        for where, claim in list(self._claims.items()):
            if claim.position == self._positions.get(where):
                self._move(claim, claim.position)
        self._positions = {where: claim.position for where, claim in self._claims.items()}

    def _move(self, claim: Claim, position: int) -> None:
        """Apply an empty batch up to `position`. Nothing may be in flight."""
        previous, claim.position = claim.position, position
        empty = claim.batch(previous)
        self._accepted(empty, self._store.apply(empty))

    def _accepted(self, batch: Batch, applied: Applied) -> bool:
        """(5) Give the claim up when the store refused its batch."""
        if applied.outcome is Outcome.APPLIED:
            return True
        self.metrics.refused_batches.labels(applied.outcome).inc()
        partition = (batch.topic, batch.partition)
        claim = self._claims.get(partition)
        if claim is not None and claim.epoch == batch.epoch:
            _log.warning(f"batch {applied.outcome}", topic=str(batch.topic), partition=batch.partition)
            del self._claims[partition]
            if applied.outcome is Outcome.FENCED:
                # Another worker claimed it: check the heartbeats now, and pause before claiming it back.
                self._owned[partition] = time.monotonic() + self._config.fenced_pause_s
                if self._shared_at < math.inf:
                    self._shared_at = -math.inf
        return False

    def _give_up(self) -> None:
        """(5) Give all claims up: after an outage only the store knows what was applied."""
        self._claims.clear()
        while self._pending:
            _, future = self._pending.popleft()
            if not future.cancel():
                future.exception()  # wait for its end before the next claim

    def _report(self, source: EventSource) -> None:
        """(4) Export the lag, commit offsets to Kafka for its tools, and store the report that the API shows."""
        self._reported = time.monotonic()
        lag: int | None = None
        if isinstance(source, KafkaSource):
            lags = {partition: source.lag(*partition) or 0 for partition in self._claims}
            for partition, records in lags.items():
                self.metrics.lag.labels(*partition).set(records)
            source.commit({partition: claim.position for partition, claim in self._claims.items()})
            lag = sum(lags.values())
        problems = self._problems(source)
        report = self.metrics.report(int(time.time() * 1_000), lag, len(self._claims), problems)
        self._store.report(self.name, report.encode(), int(self._config.dead_after_s * 1_000))

    def _problems(self, source: EventSource) -> list[str]:
        """What a person has to do something about."""
        stopped, held_back = source.unreadable(), source.held_back()
        self.metrics.stopped.set(len(stopped))
        self.metrics.held_back.set(sum(found.records for found in held_back))
        return [str(found) for found in (*stopped, *held_back)]


def _say_what_for(waiting: RetryCallState) -> None:
    _log.warning("feature worker waits", reason=str(waiting.outcome and waiting.outcome.exception()))


def _trace(traces: Traces, prepared: Prepared, applied: Applied, began_ns: int) -> None:
    """Add the worker's spans to the trace of each record that carries one."""
    batch, ended_ns = prepared.batch, time.time_ns()
    for parent in prepared.parents:
        span = traces.begin(f"apply {batch.topic}", parent, began_ns)
        span.child("redis apply", began_ns).end(ended_ns, system="redis", events=len(batch.events))
        span.end(ended_ns, partition=batch.partition, outcome=str(applied.outcome))


def _kind(error: InvalidEvent) -> str:
    """The metric label of a refused record: one of few values."""
    if isinstance(error, Late):
        return "late"
    return "misrouted" if isinstance(error, Misrouted) else "poison"
