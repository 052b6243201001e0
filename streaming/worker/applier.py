"""Apply a prepared batch: dead letters into the log, then changes, states and offset into the store."""

import time

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import EventSink
from recsys.contracts.types import MS_PER_SECOND
from recsys.observability.tracing import Traces
from recsys.store.base import Applied, FeatureStore
from streaming.acceptance import Late, Misrouted
from streaming.log.dead_letter import send_dead_letter
from streaming.worker.batches import Prepared
from streaming.worker.metrics import Tally


class Applier:
    """Writes to a store and to the dead letters of a log."""

    def __init__(self, store: FeatureStore, sink: EventSink, traces: Traces | None = None) -> None:
        self._store = store
        self._sink = sink
        self._traces = traces

    def refuse(self, prepared: Prepared) -> None:
        """(2) Write a batch's dead letters to the log before its offset is stored."""
        for record, error in prepared.refused:
            send_dead_letter(self._sink, record, str(error))
        if prepared.refused:
            self._sink.flush()

    def apply(self, prepared: Prepared) -> Applied:
        """(3) With traces on, each record that carries a trace gets a span."""
        began_ns = time.time_ns()
        self._store.change_items(prepared.items)
        self._store.change_users(prepared.users)
        self._store.merge_users(prepared.merges)
        applied = self._store.apply(prepared.batch)
        if self._traces is not None:
            _trace(self._traces, prepared, applied, began_ns)
        return applied


def tally(prepared: Prepared, applied: Applied) -> Tally:
    """What became of the batch's records; call it as soon as they are readable."""
    oldest_ms = prepared.oldest_append_ms
    return Tally(
        applied=applied.applied,
        duplicates=applied.duplicates,
        skipped=applied.skipped,
        clamped=prepared.clamped,
        elsewhere=prepared.elsewhere,
        dead_letters=[_kind(error) for _, error in prepared.refused],
        freshness_s=max(0.0, time.time() - oldest_ms / MS_PER_SECOND) if oldest_ms else None,
    )


def _kind(error: InvalidEvent) -> str:
    """The metric label of a refused record: one of few values."""
    if isinstance(error, Late):
        return "late"
    return "misrouted" if isinstance(error, Misrouted) else "poison"


def _trace(traces: Traces, prepared: Prepared, applied: Applied, began_ns: int) -> None:
    """Add the worker's spans to the trace of each record that carries one."""
    batch, ended_ns = prepared.batch, time.time_ns()
    for parent in prepared.parents:
        span = traces.begin(f"apply {batch.topic}", parent, began_ns)
        span.child("redis apply", began_ns).end(ended_ns, system="redis", events=len(batch.events))
        span.end(ended_ns, partition=batch.partition, outcome=str(applied.outcome))
