"""The relay: delivers the outbox of the catalogue database to the topics.

1. Lock lanes that no other relay holds, and read their oldest rows (with `RECSYS_RELAY=slot`: all lanes, and the next
   rows in the order of the commits).
2. Append them to the log, in order.
3. Wait until the log has acknowledged all of them.
4. Delete exactly these rows; the commit frees the lanes.

A relay that is killed before 4 leaves the rows to the next one: each change arrives at least once, changes of one id in
order. Between 2 and 4 nothing may be on its way once the lanes are another's: a relay that gives up closes its sink.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Protocol

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.outbox import Backlog, Claim, Outbox
from recsys.catalogue_db.slot import SlotState
from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.event_log import EventSink
from streaming.log import KafkaSink
from streaming.loop_metrics import LoopMetrics
from streaming.settings import RelayOrder, StreamSettings

# shortest and longest wait for the next rows: it grows while none come; a few cost about as much as many
_PAUSE_S = (0.02, 0.1)
_RETRY_S = (0.1, 2.0)
_FLUSH_S = 1.0  # between two checks that the lanes are still held
_PATIENCE_S = 10.0  # with the log; then another relay may try

_log = structlog.get_logger(__name__)


def main(settings: StreamSettings, stop: threading.Event) -> "Totals":
    """Deliver until `stop`. Outages of the database and of Kafka are waited out. Raises `InvalidConfig`: no database is
    configured, or `RECSYS_RELAY` asks for a slot that it does not allow."""
    with closing(CatalogueDatabase.of(settings)) as database:
        has_slot = settings.relay is RelayOrder.SLOT
        outbox = database.slot_outbox() if has_slot else database.outbox()
        relay = Relay(
            outbox,
            lambda: KafkaSink(settings.kafka, settings.partitions),
            settings.relay_batch,
        )
        metrics = RelayMetrics(relay.totals, outbox.backlog, database.slot_state)
        if settings.worker_metrics_port:
            metrics.serve(settings.worker_metrics_port)
        with closing(relay):
            relay.run(stop, metrics.stepped)
    return relay.totals


class RelaySink(EventSink, Protocol):
    def close(self, timeout_s: float = 10.0) -> None:
        """What the log has not acknowledged by then is never sent. Raises `Unavailable`: there was such a record."""


@dataclass
class Totals:
    """Counters of one relay process."""

    delivered: int = 0
    refused: int = 0  # records that the log never takes; they are logged
    outages: int = 0


class RelayMetrics(LoopMetrics):
    """What one relay has done, and what waits for any of them. `backlog` and `slot` are asked at each scrape."""

    def __init__(
        self,
        totals: Totals,
        backlog: Callable[[], Backlog],
        slot: Callable[[], SlotState | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._totals = totals
        self._backlog = backlog
        self._slot = slot
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for name, count in asdict(self._totals).items():
            yield CounterMetricFamily(f"recsys_relay_{name}", f"The relay's counter: {name}.", value=count)
        try:
            waiting, slot = self._backlog(), self._slot()
        except Unavailable:
            return  # no figure is better than an old one
        yield GaugeMetricFamily(
            "recsys_relay_waiting_rows", "Changes in the database's outbox.", value=waiting.rows
        )
        yield GaugeMetricFamily(
            "recsys_relay_oldest_seconds", "Age of the oldest change in it.", value=waiting.oldest_s
        )
        if slot is None:
            return
        yield GaugeMetricFamily(
            "recsys_relay_slot_kept_bytes", "Of PostgreSQL's log, for the slot.", value=slot.kept_bytes
        )
        yield GaugeMetricFamily(
            "recsys_relay_slot_left_bytes", "Until the slot is lost.", value=slot.left_bytes or 0
        )


class Relay:
    """Not thread-safe. `open_sink`: for a new sink, after the last one was closed."""

    def __init__(
        self,
        outbox: Outbox,
        open_sink: Callable[[], RelaySink],
        batch: int = 2_000,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._outbox = outbox
        self._open_sink = open_sink
        self._batch = batch
        self._patience_s = patience_s
        self._sink: RelaySink | None = None
        self.totals = Totals()

    def run(self, stop: threading.Event, stepped: Callable[[], None] = lambda: None) -> None:
        """`stepped` is called at the beginning of each step, during outages too."""
        pause_s, retry_s = _PAUSE_S[0], _RETRY_S[0]
        while not stop.is_set():
            stepped()
            try:
                delivered = self.step()
            except Unavailable as error:
                self.totals.outages += 1
                _log.warning("the relay waits", reason=str(error))
                stop.wait(retry_s)
                retry_s = min(2 * retry_s, _RETRY_S[1])
                continue
            retry_s = _RETRY_S[0]
            if delivered:
                pause_s = _PAUSE_S[0]
            if delivered < self._batch:
                stop.wait(pause_s)
            if not delivered:
                pause_s = min(2 * pause_s, _PAUSE_S[1])

    def step(self) -> int:
        """Deliver the oldest rows of some lanes. Returns their number. Raises `Unavailable`: the database or the log is
        away; the rows stay."""
        with self._outbox.claim(self._batch) as claim:
            if not claim.messages:
                return 0
            try:
                self._deliver(claim)
            except BaseException:
                self._discard_sink()  # while the lanes are still ours
                raise
            claim.delivered()
        self.totals.delivered += len(claim.messages)
        return len(claim.messages)

    def close(self) -> None:
        self._discard_sink()

    def _deliver(self, claim: Claim) -> None:
        sink = self._sink = self._sink or self._open_sink()
        for message in claim.messages:
            try:
                sink.append(message.topic, message.key, message.value, message.headers)
            except InvalidEvent as error:  # it would be refused for ever, and hold up everything behind it
                self.totals.refused += 1
                _log.error("the log refuses a record", topic=message.topic, error=str(error))
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return sink.flush(min(_FLUSH_S, self._patience_s))
            except Unavailable:
                claim.check()
                if time.monotonic() > deadline:
                    raise

    def _discard_sink(self) -> None:
        """Nothing that waits in the sink is sent any more."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with suppress(Unavailable):
                sink.close(timeout_s=0.0)
