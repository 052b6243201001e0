"""Rates and percentiles of the last minute, from what the telemetry and the feature workers count since their starts.

A snapshot is taken when somebody looks; what happened is the difference to the oldest one within the window. So nothing
runs while nobody looks, and with several processes the sum of all is shown, whichever of them is asked. The first
snapshot is taken when the process starts: what others have counted before that is not of its first minute.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from prometheus_client import Metric

from recsys.observability.worker_report import WorkerReport

REQUESTS, SECONDS, STAGES = "recsys_http_requests", "recsys_http_seconds", "recsys_stage_seconds"
DEGRADED, CACHE = "recsys_degraded", "recsys_cache"
WINDOW_S = 60.0
_KEEP_EVERY_S = 1.0

Buckets = dict[float, float]  # upper bound in seconds → how many took at most so long


@dataclass(frozen=True)
class Snapshot:
    """Counts since the start, at one moment of the clock."""

    at_s: float = 0.0
    requests: dict[tuple[str, str], float] = field(default_factory=dict)  # route, status → requests
    routes: dict[str, Buckets] = field(default_factory=dict)
    stages: dict[str, Buckets] = field(default_factory=dict)
    degraded: dict[str, float] = field(default_factory=dict)  # reason → answers
    caches: dict[str, dict[str, float]] = field(default_factory=dict)  # cache → what → number
    workers: Mapping[str, WorkerReport] | None = None  # by name; None: nobody asked, or the store was away


def snapshot(
    metrics: Iterable[Metric], at_s: float, workers: Mapping[str, WorkerReport] | None = None
) -> Snapshot:
    """What the telemetry's metrics and the workers' reports say now."""
    found = Snapshot(at_s, {}, {}, {}, {}, {}, workers)
    buckets = {SECONDS: found.routes, STAGES: found.stages}
    for metric in metrics:
        for sample in metric.samples:
            labels = sample.labels
            if metric.name == REQUESTS and sample.name.endswith("_total"):
                key = labels["route"], labels["status"]
                found.requests[key] = found.requests.get(key, 0.0) + sample.value
            elif metric.name in buckets and sample.name.endswith("_bucket"):
                name = labels["route"] if metric.name == SECONDS else labels["stage"]
                buckets[metric.name].setdefault(name, {})[float(labels["le"])] = sample.value
            elif metric.name == DEGRADED and sample.name.endswith("_total"):
                found.degraded[labels["reason"]] = sample.value
            elif metric.name == CACHE:
                found.caches.setdefault(labels["cache"], {})[labels["what"]] = sample.value
    return found


class Window:
    """The latest snapshot against the oldest of the last `WINDOW_S`, or against `begin`. Thread-safe. However often
    somebody looks, one snapshot a second is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: deque[Snapshot] = deque([Snapshot(clock())])

    def begin(self, metrics: Iterable[Metric]) -> None:
        """From here on: the metrics of several processes, or of one that was started again, do not begin at 0."""
        now = snapshot(metrics, self._clock())
        with self._lock:
            self._taken = deque([now])

    def look(
        self, metrics: Iterable[Metric], workers: Mapping[str, WorkerReport] | None = None
    ) -> tuple[Snapshot, Snapshot]:
        """Then and now."""
        now = snapshot(metrics, self._clock(), workers)
        with self._lock:
            while len(self._taken) > 1 and now.at_s - self._taken[0].at_s > WINDOW_S:
                self._taken.popleft()
            then = replace(self._taken[0], workers=self._oldest_reports())
            if now.at_s - self._taken[-1].at_s >= _KEEP_EVERY_S:
                self._taken.append(now)
        return then, now

    def _oldest_reports(self) -> Mapping[str, WorkerReport] | None:
        """Of each worker its oldest within the window: reports may have been away meanwhile, all or one worker's."""
        known = [taken.workers for taken in self._taken if taken.workers is not None]
        return (
            {name: report for workers in reversed(known) for name, report in workers.items()}
            if known
            else None
        )


def quantile(then: Buckets, now: Buckets, q: float) -> float | None:
    """Seconds below which a share `q` of what came since `then` lies, linear within a bucket; None: nothing came."""
    bounds = sorted(now)
    counts = [
        now[bound] - then.get(bound, 0.0) for bound in bounds
    ]  # a process that has gone may make it negative
    if not counts or counts[-1] <= 0:
        return None
    wanted = q * counts[-1]
    below_bound = below = 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted and count > below:
            if bound == float("inf"):
                return below_bound
            return below_bound + (bound - below_bound) * (wanted - below) / (count - below)
        below_bound, below = bound, count
    return below_bound


def added(then: Buckets, now: Buckets) -> float:
    """How many observations lie between."""
    most = float("inf")
    return max(0.0, now.get(most, 0.0) - then.get(most, 0.0))


def made_readable(then: Snapshot, now: Snapshot) -> Buckets | None:
    """Cumulative counts of what the living workers have made readable meanwhile, by how long it took; None: unknown.

    All counts of a worker that has begun since are of this time. One that is older but was not there then, as after an
    outage of its reports, is left out: how much of what it has counted is of this time nobody knows.
    """
    if then.workers is None or now.workers is None:
        return None
    found: Buckets = {}
    for name, report in now.workers.items():
        if name not in then.workers and report.alive_s > now.at_s - then.at_s:
            continue
        before = then.workers[name].freshness if name in then.workers else {}
        for bound, count in report.freshness.items():
            found[bound] = found.get(bound, 0.0) + count - before.get(bound, 0.0)
    return found
