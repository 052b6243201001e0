"""What the System view shows: load of the API now, progress of the stream, drift of the features."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from recsys.contracts.errors import InvalidBundle, Unavailable
from recsys.contracts.types import Topic
from recsys.features.drift import HISTOGRAMS, drift, read_histograms
from recsys.observability.worker_report import WorkerReport, read_report
from recsys.simulation.clock import wall_ms
from recsys.store.base import Checkpoint, FeatureStore
from serving.api.monitoring.rates import Buckets, Snapshot, Window, added, made_readable, quantile
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.engine.served_features import ServedFeatures
from serving.ingest.outbox import Outboxes
from serving.telemetry import STAGE_SAMPLE, Telemetry

LogEndsOf = Callable[[str], Sequence[int]]  # topic → the next offset of each partition; may raise Unavailable

_LEAST_S = 1.0  # one request in the first hundredth of a second is not a hundred per second
LEAST_ROWS = 200  # fewer served rows say nothing about a distribution
STREAMED = (Topic.EVENTS, Topic.IMPRESSIONS)


class Timing(BaseModel):
    """One route or stage in the window. Percentiles are null without requests."""

    name: str
    per_s: float
    p50_ms: float | None
    p99_ms: float | None


class CacheState(BaseModel):
    name: str
    hits: int
    misses: int
    bytes: int
    hit_share: float | None = Field(description="since the start")


class PartitionState(BaseModel):
    """Progress of the feature workers in one topic partition."""

    topic: str
    partition: int
    offset: int | None = Field(description="next record to apply; null: never claimed")
    lag: int | None = Field(description="records not applied yet; null: the log cannot be asked")
    newest_event_ms: int | None = Field(description="latest event time applied")


class WorkerState(BaseModel):
    """One feature worker, by its report to the store; counts are since its start."""

    name: str
    reported_s: float = Field(description="age of the report")
    partitions: int = Field(description="of all topics")
    lag: int | None = Field(description="unread records of its partitions")
    applied: int
    duplicates: int
    dead_letters: int
    outages: int = Field(description="times that Redis or Kafka was away")
    problems: list[str] = Field(description="what a person has to do something about")


class FreshnessBucket(BaseModel):
    up_to_ms: float | None = Field(description="null: longer than any bound")
    batches: int


class Freshness(BaseModel):
    """From the log accepting a record to its features being readable; the oldest record of each batch in the window."""

    p50_ms: float | None
    p99_ms: float | None
    buckets: list[FreshnessBucket] = Field(
        description="empty: unknown; no worker reports, or the store is away"
    )


class Drift(BaseModel):
    """PSI of served values against the training's: below 0.1 stable, above 0.25 a different population."""

    rows: int = Field(description="served items compared, of this process")
    psi: dict[str, float] = Field(description="by feature column, the largest first")
    missing: str = Field("", description="why there is none")


class SystemState(BaseModel):
    """Rates and percentiles are of the last `window_s`; all processes of this API together."""

    window_s: float
    bundle: str | None
    requests_per_s: float
    errors_per_s: float = Field(description="answers with 5xx")
    routes: list[Timing]
    stages: list[Timing]
    degraded: dict[str, int] = Field(description="answers of the window by reason")
    caches: list[CacheState]
    stream: list[PartitionState]
    workers: list[WorkerState]
    freshness: Freshness
    item_features_age_s: float
    outbox_bytes: int
    drift: Drift


@dataclass
class SystemView:
    """Collects the state from where it is."""

    telemetry: Telemetry
    host: ModelHost[Runtime]
    store: FeatureStore
    feed: ItemFeed
    outboxes: Outboxes
    served: ServedFeatures
    partitions: int
    log_ends: LogEndsOf | None = None  # None: this log cannot be asked
    window: Window = field(default_factory=Window)

    def state(self) -> SystemState:
        """What cannot be asked is null, not an error."""
        then, now = self.window.compare(self.telemetry.collect(), _reports(self.store))
        seconds = max(now.at_s - then.at_s, _LEAST_S)
        requests = {key: max(0.0, n - then.requests.get(key, 0.0)) for key, n in now.requests.items()}
        return SystemState(
            window_s=round(seconds, 3),
            bundle=self.host.active,
            requests_per_s=sum(requests.values()) / seconds,
            errors_per_s=sum(n for (_, status), n in requests.items() if status.startswith("5")) / seconds,
            routes=_timings(then.routes, now.routes, seconds),
            stages=_timings(then.stages, now.stages, seconds / STAGE_SAMPLE),
            degraded=_degraded(then, now),
            caches=_caches(now),
            stream=self._stream(),
            workers=[_worker(name, report) for name, report in (now.workers or {}).items()],
            freshness=_freshness(made_readable(then, now)),
            item_features_age_s=self.feed.age_s,
            outbox_bytes=self.outboxes.backlog_bytes,
            drift=_drift(self.host.runtime(), self.served),
        )

    def _stream(self) -> list[PartitionState]:
        try:
            return [
                _partition(topic, partition, self.store.checkpoint(topic, partition), ends)
                for topic in STREAMED
                for ends in [self._ends(topic)]
                for partition in range(len(ends) or self.partitions)
            ]
        except Unavailable:
            return []

    def _ends(self, topic: str) -> Sequence[int]:
        try:
            return self.log_ends(topic) if self.log_ends else ()
        except Unavailable:
            return ()


def _timings(then: Mapping[str, Buckets], now: Mapping[str, Buckets], seconds: float) -> list[Timing]:
    """In the order in which they were first seen: for stages, that of the request path."""
    return [
        Timing(
            name=name,
            per_s=added(then.get(name, {}), buckets) / seconds,
            p50_ms=_ms(quantile(then.get(name, {}), buckets, 0.5)),
            p99_ms=_ms(quantile(then.get(name, {}), buckets, 0.99)),
        )
        for name, buckets in now.items()
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _degraded(then: Snapshot, now: Snapshot) -> dict[str, int]:
    more = {reason: int(n - then.degraded.get(reason, 0.0)) for reason, n in now.degraded.items()}
    return {reason: n for reason, n in more.items() if n}


def _caches(now: Snapshot) -> list[CacheState]:
    states = []
    for name, of in now.caches.items():
        hits, misses, size = (int(of.get(what, 0)) for what in ("hits", "misses", "bytes"))
        share = hits / (hits + misses) if hits + misses else None
        states.append(CacheState(name=name, hits=hits, misses=misses, bytes=size, hit_share=share))
    return states


def _partition(topic: str, number: int, checkpoint: Checkpoint | None, ends: Sequence[int]) -> PartitionState:
    offset = checkpoint.offset if checkpoint else None
    return PartitionState(
        topic=topic,
        partition=number,
        offset=offset,
        lag=max(0, ends[number] - (offset or 0)) if number < len(ends) else None,
        newest_event_ms=checkpoint.watermark_ms if checkpoint and checkpoint.watermark_ms > 0 else None,
    )


def _reports(store: FeatureStore) -> dict[str, WorkerReport] | None:
    try:
        found = store.reports()
    except Unavailable:
        return None
    reports = {name: read_report(content) for name, content in found.items()}
    return {name: report for name, report in reports.items() if report is not None}


def _worker(name: str, report: WorkerReport) -> WorkerState:
    return WorkerState(
        name=name,
        reported_s=max(0.0, (wall_ms() - report.at_ms) / 1e3),  # workers report in real time
        **{name: getattr(report, name) for name in WorkerState.model_fields.keys() - {"name", "reported_s"}},
    )


def _freshness(counts: Buckets | None) -> Freshness:
    if not counts:
        return Freshness(p50_ms=None, p99_ms=None, buckets=[])
    bounds = sorted(counts)
    below = [0.0, *(counts[bound] for bound in bounds)]
    return Freshness(
        p50_ms=_ms(quantile({}, counts, 0.5)),
        p99_ms=_ms(quantile({}, counts, 0.99)),
        buckets=[
            FreshnessBucket(
                up_to_ms=None if math.isinf(bound) else bound * 1e3, batches=round(counts[bound] - less)
            )
            for bound, less in zip(bounds, below, strict=False)
        ],
    )


def _drift(runtime: Runtime | None, lists: ServedFeatures) -> Drift:
    if runtime is None:
        return Drift(rows=0, psi={}, missing="no bundle is loaded")
    manifest = runtime.bundle.manifest
    if HISTOGRAMS not in manifest.files:
        return Drift(rows=0, psi={}, missing=f"the bundle has no {HISTOGRAMS}; train again")
    served = lists.matrix(manifest.version)
    if len(served) < LEAST_ROWS:
        return Drift(rows=len(served), psi={}, missing=f"fewer than {LEAST_ROWS} items served yet")
    try:
        trained = read_histograms(runtime.bundle.file(HISTOGRAMS))
        found = drift(trained, manifest.feature_names, served)
    except (InvalidBundle, ValueError) as error:
        return Drift(rows=len(served), psi={}, missing=str(error))
    return Drift(rows=len(served), psi={name: round(psi, 4) for name, psi in found.items()})
