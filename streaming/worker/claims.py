"""Which partitions a worker writes: shared by heartbeats, claimed in the store, given up when it refuses a batch.

Workers of every engine do this alike, so they share the partitions with each other, and one takes over from another at
the stored offsets. Partition p belongs to live worker number p modulo their count. When two disagree for a moment, the
epoch decides whose writes count.
"""

import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from recsys.contracts.event_log import EventSource, Gap
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import check_partitions
from recsys.contracts.types import Topic
from recsys.store.base import FeatureStore, Outcome
from streaming.log import Partition
from streaming.worker.batches import Claim
from streaming.worker.metrics import WorkerMetrics

TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS, Topic.ITEMS, Topic.USERS)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`max_poll`: records per poll. `max_batch`: events per store call, during which Redis is blocked; `fresh_batch`:
    the same while the worker keeps up, since the first of a call wait for the last.
    `in_flight`: batches that are parsed before the store has applied the first of them.
    `fenced_pause_s`: wait before a partition is claimed back from another worker. `check_s`: between two checks that
    the store still has the offsets of idle partitions; after an outage all are claimed again anyway."""

    partitions: int = 4
    rules: TimeRules = field(default_factory=TimeRules)
    max_poll: int = 500
    max_batch: int = 500
    fresh_batch: int = 100
    in_flight: int = 8
    poll_s: float = 0.5
    fenced_pause_s: float = 1.0
    max_backoff_s: float = 5.0
    heartbeat_s: float = 1.0
    dead_after_s: float = 5.0
    report_s: float = 1.0
    check_s: float = 3.0

    def batch(self, behind: bool) -> int:
        """Events per store call. `behind`: there is more in the log than one poll takes."""
        return self.max_batch if behind else min(self.max_batch, self.fresh_batch)


class Claims:
    """The claims of one worker, by topic partition (`held`). `name` must differ from every other worker's."""

    def __init__(
        self, store: FeatureStore, config: WorkerConfig, metrics: WorkerMetrics, name: str = ""
    ) -> None:
        """The partitions are shared with the other workers, unless `own` fixes them."""
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.held: dict[Partition, Claim] = {}
        self._store = store
        self._config = config
        self._metrics = metrics
        self._owned: dict[Partition, float] = {}  # → earliest monotonic time of the next claim
        self._counts = dict.fromkeys(TOPICS, config.partitions)  # partitions; at `check` as they are
        self._shared_at = -math.inf  # time of the last assignment; +inf: fixed
        self._checked = 0.0
        self._positions: dict[Partition, int] = {}  # at the last check of idle partitions
        self._lagging: set[Partition] = set()  # whose lag is exported

    def own(self, numbers: Iterable[int]) -> None:
        self._shared_at = math.inf
        self._owned = {(topic, number): 0.0 for topic in TOPICS for number in numbers}
        self.held = {where: claim for where, claim in self.held.items() if where in self._owned}

    def check(self, source: EventSource) -> None:
        """Raises `InvalidConfig`: a topic has another number of partitions than configured."""
        self._counts = {topic: source.partitions(topic) for topic in TOPICS}
        for topic, found in self._counts.items():
            check_partitions(topic, found, self._config.partitions)

    @property
    def numbers(self) -> list[int]:
        """Of the partitions that this worker owns, sorted."""
        return sorted({number for _, number in self._owned})

    def is_heartbeat_due(self) -> bool:
        return time.monotonic() - self._shared_at >= self._config.heartbeat_s

    def share(self, source: EventSource) -> None:
        """Send a heartbeat and update the partitions that this worker owns."""
        live = self._store.workers(self.name, int(self._config.dead_after_s * 1_000))
        self._shared_at = time.monotonic()
        every = ((topic, number) for topic, count in self._counts.items() for number in range(count))
        mine = {(topic, number) for topic, number in every if live[number % len(live)] == self.name}
        for where in self._owned.keys() - mine:
            del self._owned[where]
            self.held.pop(where, None)
            source.unseek(*where)  # that of one which was given up, too
        for where in mine - self._owned.keys():
            self._owned[where] = 0.0

    def unclaimed(self) -> list[Partition]:
        """Owned partitions whose claim is due."""
        now = time.monotonic()
        return [
            (topic, number)
            for (topic, number), not_before in list(self._owned.items())
            if (topic, number) not in self.held and now >= not_before and number < self._counts[Topic(topic)]
        ]  # of fixed numbers, `items` and `users` have fewer once the others have grown

    def claim(self, source: EventSource) -> None:
        """(1) Claim owned partitions that are not claimed yet, and seek to the stored offset."""
        unclaimed = self.unclaimed()
        log_ids = {topic: source.log_id(topic) for topic, _ in unclaimed}
        for topic, number in unclaimed:
            stored = self._store.claim(topic, number, log_ids[topic])
            source.seek(topic, number, stored.offset)
            self.held[topic, number] = Claim(topic, number, stored.epoch, stored.offset, stored.watermark_ms)
            self._metrics.claims.inc()
            _log.info("claimed", topic=str(topic), partition=number, offset=stored.offset, epoch=stored.epoch)

    def accepted(self, where: Partition, epoch: int, outcome: Outcome) -> bool:
        """(5) Give the claim up when the store refused its batch."""
        if outcome is Outcome.APPLIED:
            return True
        self._metrics.refused_batches.labels(outcome).inc()
        claim = self.held.get(where)
        if claim is not None and claim.epoch == epoch:
            _log.warning(f"batch {outcome}", topic=str(where[0]), partition=where[1])
            self.held.pop(where, None)
            if outcome is Outcome.FENCED:
                # Another worker claimed it: check the heartbeats now, and pause before claiming it back.
                self._owned[where] = time.monotonic() + self._config.fenced_pause_s
                if self._shared_at < math.inf:
                    self._shared_at = -math.inf
        return False

    def give_up(self) -> None:
        """(5) Give all claims up: after an outage only the store knows what was applied."""
        self.held.clear()

    def move(self, claim: Claim, position: int) -> None:
        """Apply an empty batch up to `position`. Nothing of the partition may be in flight."""
        previous, claim.position = claim.position, position
        applied = self._store.apply(claim.batch(previous))
        self.accepted((claim.topic, claim.partition), claim.epoch, applied.outcome)

    def pass_gap(self, gap: Gap) -> None:
        """Store that the records of an accepted gap do not come; another start would find it again."""
        claim = self.held.get((gap.topic, gap.partition))
        if claim is None:
            return
        self._metrics.lost.labels(gap.topic, gap.partition).inc(gap.next - gap.first)
        self.move(claim, gap.next)

    def is_check_due(self) -> bool:
        return time.monotonic() - self._checked >= self._config.check_s

    def check_idle(self) -> None:
        """Apply an empty batch to idle partitions, to detect that the store has lost offsets. Nothing may be in flight.
        Without it, what Redis lost in a crash would be missing until the partition's next event."""
        self._checked = time.monotonic()
        for where, claim in list(self.held.items()):
            if claim.position == self._positions.get(where):
                self.move(claim, claim.position)
        self._positions = {where: claim.position for where, claim in self.held.items()}

    def report(self, lags: Mapping[Partition, int] | None, problems: Sequence[str] = ()) -> None:
        """(4) Export the lags, and store the report that the API shows."""
        for partition, records in (lags or {}).items():
            self._metrics.lag.labels(*partition).set(records)
        for gone in self._lagging - (lags or {}).keys():
            self._metrics.lag.remove(*gone)  # another worker exports it now
        self._lagging = set(lags or ())
        lag = None if lags is None else sum(lags.values())
        report = self._metrics.report(int(time.time() * 1_000), lag, len(self.held), problems)
        self._store.report(self.name, report.encode(), int(self._config.dead_after_s * 1_000))

    def leave(self) -> None:
        """Sign off, so that the others take over at once."""
        self._store.leave(self.name)
