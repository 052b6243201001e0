"""The feature worker: applies each event of its partitions to the online store with an exactly-once effect.

The store, not Kafka, is the source of truth for offsets:

1. `Claims.claim`: claiming a partition gives it a new epoch and returns the stored offset and watermark. Read from
   there.
2. `Applier.refuse`: a record that breaks the contract, or is late, goes to the dead letters under the key
   `topic:partition:offset` and is acknowledged before its batch is applied.
3. `Applier.apply`: one atomic store call per batch of at most 500 events. An old epoch (FENCED) or missing records
   (GAP) refuse the batch; records below the stored offset and known event ids are skipped; states, offset and
   watermark are written together. Item and user changes are written before their batch's offset, since they are
   idempotent.
4. `_report`: offsets are also committed to Kafka, but only so that its tools can show the lag.
5. `Claims.accepted`, `_give_up`: after FENCED, GAP or an outage, give the claim up and restart at 1.

The next batches are read and parsed while the store applies the last ones, those of a partition in order. When it
refuses one, or is away, it refuses those behind it as well: they do not begin at its offset. Records read after a claim
was given up are discarded: reading restarts at the stored offset. `streaming.spark` does the same steps in Spark's
micro-batches.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter

import structlog
from tenacity import RetryError

from recsys.contracts.errors import LogReplaced, Unavailable
from recsys.contracts.event_log import EventSink, EventSource
from recsys.observability.tracing import Traces
from recsys.store.base import Applied, FeatureStore, Outcome
from streaming.log import KafkaSource
from streaming.worker.applier import Applier, tally
from streaming.worker.batches import Prepared, batches
from streaming.worker.claims import Claims, WorkerConfig
from streaming.worker.metrics import Tally, WorkerMetrics
from streaming.worker.outages import retried

_LANES = 2  # threads that call the store: one folds and encodes a batch while Redis applies that of the other
_partition = attrgetter("topic", "partition")
_log = structlog.get_logger(__name__)


class FeatureWorker:
    """One worker: a thread that reads and parses, and `_LANES` that call the store. `name` must differ from every
    other worker's."""

    def __init__(
        self,
        store: FeatureStore,
        sink: EventSink,
        config: WorkerConfig | None = None,
        name: str = "",
        traces: Traces | None = None,
    ) -> None:
        """The partitions are shared with the other workers, unless `own` fixes them."""
        self._config = config or WorkerConfig()
        self.metrics = WorkerMetrics()
        self._claims = Claims(store, self._config, self.metrics, name)
        self._applier = Applier(store, sink, traces)
        self._pending: deque[tuple[Prepared, Future[tuple[Applied, Tally]]]] = deque()
        self._lanes = [ThreadPoolExecutor(1, f"apply-{n}") for n in range(_LANES)]
        self._lane_of: dict[int, ThreadPoolExecutor] = {}  # by number: what has the same users stays in order
        self._reported = 0.0

    @property
    def name(self) -> str:
        return self._claims.name

    def own(self, numbers: Iterable[int]) -> None:
        self._claims.own(numbers)

    def run(self, source: EventSource, stop: threading.Event) -> None:
        """Work until `stop`, then finish the batch in flight. Outages of Redis and Kafka are waited out.
        Raises `InvalidConfig`: the topics have another number of partitions than configured, or than the store knows.
        Raises `FingerprintMismatch`: the store holds the states of other features."""
        try:
            self._run(source, stop)
        finally:
            for lane in self._lanes:
                lane.shutdown(cancel_futures=True)  # the next owner rereads what is not stored

    def _run(self, source: EventSource, stop: threading.Event) -> None:
        recover = retried(stop, self._config.max_backoff_s)
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
        with contextlib.suppress(Unavailable):
            self._finish()
            self._report(source)
            self._claims.leave()

    def step(self, source: EventSource) -> int:
        """Poll once and apply; the last batches may stay in flight. Returns the number of records read."""
        self.metrics.stepped()
        if self._claims.is_heartbeat_due():
            self._claims.share(source)
        if self._claims.numbers != list(self._lane_of):
            self._deal()
        self._claims.claim(source)
        records = source.poll(self._config.poll_s, self._config.max_poll)
        for gap in source.gaps():
            self._finish()
            self._claims.pass_gap(gap)
        most = self._config.batch(behind=len(records) >= self._config.max_poll)
        records.sort(key=_partition)  # stable: in offset order within each
        for partition, run in groupby(records, key=_partition):
            claim = self._claims.held.get(partition)
            if claim is None:
                continue
            config = self._config
            for prepared in batches(claim, run, config.partitions, config.rules, most):
                self._applier.refuse(prepared)
                self._finish(self._config.in_flight - 1)
                if self._claims.held.get(partition) is not claim:
                    break  # given up while this batch was parsed
                self._pending.append((prepared, self._lane_of[partition[1]].submit(self._apply, prepared)))
        if not records:
            self._finish()
        if time.monotonic() - self._reported >= self._config.report_s:
            self._pass_markers(source)
            self._report(source)
        if self._claims.is_check_due():
            self._finish()
            self._claims.check_idle()
        return len(records)

    def _restart(self, source: EventSource) -> None:
        self.metrics.stepped()  # waiting is working
        self._claims.check(source)
        self._claims.claim(source)

    def _deal(self) -> None:
        """Other partitions are owned: spread them over the lanes. What is in flight ends first, so that no batch of an
        old claim is behind those of the next."""
        self._finish()
        self._lane_of = {number: self._lanes[n % _LANES] for n, number in enumerate(self._claims.numbers)}

    def _apply(self, prepared: Prepared) -> tuple[Applied, Tally]:
        """(3) On a thread that calls the store: what is counted later was readable then."""
        applied = self._applier.apply(prepared)
        return applied, tally(prepared, applied)

    def _finish(self, most: int = 0) -> None:
        """(3) Wait until no more than `most` batches are in flight."""
        while self._pending and (len(self._pending) > most or self._pending[0][1].done()):
            prepared, future = self._pending.popleft()
            batch, (applied, counted) = prepared.batch, future.result()
            if self._claims.accepted((batch.topic, batch.partition), batch.epoch, applied.outcome):
                self.metrics.count(counted)

    def _pass_markers(self, source: EventSource) -> None:
        """Store that what has offsets but is no record, such as the markers of transactions, has been read, too:
        else it would count as lag until the partition's next event."""
        self._finish()
        for where, claim in list(self._claims.held.items()):
            if (position := source.position(*where)) > claim.position:
                self._claims.move(claim, position)

    def _give_up(self) -> None:
        """(5) Wait for what has begun before the next claims. Of a batch that fails only the store knows whether it was
        applied; another lane's may have been, and count."""
        self._claims.give_up()
        begun = [future for _, future in self._pending if not future.cancel()]
        self._pending.clear()
        for future in begun:
            with contextlib.suppress(Unavailable):
                applied, counted = future.result()
                if applied.outcome is Outcome.APPLIED:
                    self.metrics.count(counted)

    def _report(self, source: EventSource) -> None:
        """(4) Commit the positions to Kafka for its tools, and report the lag."""
        self._reported = time.monotonic()
        lags, held = None, self._claims.held
        if isinstance(source, KafkaSource):
            lags = {partition: source.lag(*partition) or 0 for partition in held}
            source.commit({partition: claim.position for partition, claim in held.items()})
        self._claims.report(lags, self._problems(source))

    def _problems(self, source: EventSource) -> list[str]:
        """What a person has to do something about."""
        stopped, held_back = source.unreadable(), source.held_back()
        self.metrics.stopped.set(len(stopped))
        self.metrics.held_back.set(sum(found.records for found in held_back))
        return [str(found) for found in (*stopped, *held_back)]
