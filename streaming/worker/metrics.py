"""The feature worker's Prometheus metrics."""

import time
from collections.abc import Sequence

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from recsys.observability.worker_report import WorkerReport
from streaming.loop_metrics import LoopMetrics

_FRESHNESS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600)


class Tally(msgspec.Struct):
    """What became of one batch's records. `dead_letters`: the kind of each. `freshness_s`: from the append of the
    oldest record to readable features."""

    applied: int
    duplicates: int
    skipped: int
    clamped: int
    elsewhere: int
    dead_letters: list[str]
    freshness_s: float | None


class WorkerMetrics(LoopMetrics):
    """The metrics of one worker."""

    def __init__(self) -> None:
        super().__init__()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, registry=self.registry)

        self.events = counter("recsys_stream_events", "Events by outcome.", "outcome")
        self.dead_letters = counter("recsys_stream_dead_letters", "Refused records by reason.", "reason")
        self.clamped = counter("recsys_stream_clamped", "Events with a future time, set to the log's time.")
        self.lost = counter(
            "recsys_stream_lost",
            "Offsets that Kafka has deleted before they were read, passed by --accept-gap.",
            "topic",
            "partition",
        )
        self.elsewhere = counter(
            "recsys_stream_elsewhere",
            "Records in another partition than their user's: of a producer that does not know all partitions yet, or "
            "has another partitioner. They count, with a store call of their own.",
        )
        self.refused_batches = counter(
            "recsys_stream_refused_batches", "Batches refused by the store: fenced, gap.", "outcome"
        )
        self.claims = counter("recsys_stream_claims", "Partition claims.")
        self.outages = counter("recsys_stream_outages", "Outages of Redis or Kafka.")
        where = ("topic", "partition")
        self.lag = Gauge(
            "recsys_stream_lag", "Records not read yet, by partition.", where, registry=self.registry
        )
        self.stopped = Gauge(
            "recsys_stream_stopped_partitions",
            "Partitions that stopped at a batch that cannot be read.",
            registry=self.registry,
        )
        self.held_back = Gauge(
            "recsys_stream_held_back_records",
            "Records behind transactions that stay open.",
            registry=self.registry,
        )
        self.freshness = Histogram(
            "recsys_stream_freshness_seconds",
            "Seconds from append to readable features, for the oldest record of each batch.",
            buckets=_FRESHNESS_BUCKETS,
            registry=self.registry,
        )

    def count(self, tally: Tally) -> None:
        """Add a batch that was applied."""
        for outcome, events in (
            ("applied", tally.applied),
            ("duplicate", tally.duplicates),
            ("skipped", tally.skipped),
        ):
            self.events.labels(outcome).inc(events)
        for kind in tally.dead_letters:
            self.dead_letters.labels(kind).inc()
        self.clamped.inc(tally.clamped)
        self.elsewhere.inc(tally.elsewhere)
        if tally.freshness_s is not None:
            self.freshness.observe(tally.freshness_s)

    def report(
        self, at_ms: int, lag: int | None, partitions: int, problems: Sequence[str] = ()
    ) -> WorkerReport:
        totals = self.totals()
        return WorkerReport(
            at_ms=at_ms,
            alive_s=time.monotonic() - self._began,
            applied=totals.get("events_applied", 0),
            duplicates=totals.get("events_duplicate", 0),
            dead_letters=sum(n for name, n in totals.items() if name.startswith("dead_letters_")),
            outages=totals["outages"],
            lag=lag,
            partitions=partitions,
            problems=tuple(problems),
            freshness={
                float(sample.labels["le"]): sample.value
                for metric in self.freshness.collect()
                for sample in metric.samples
                if sample.name.endswith("_bucket")
            },
        )

    def totals(self) -> dict[str, int]:
        """All counters by name and labels."""
        return {
            "_".join(
                [sample.name.removeprefix("recsys_stream_").removesuffix("_total"), *sample.labels.values()]
            ): int(sample.value)
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
