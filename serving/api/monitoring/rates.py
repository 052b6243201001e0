"""Rates and percentiles of the last minute, from counts that telemetry and feature workers have since their starts.

Each request of the System view takes a snapshot and compares it with the oldest one of the window, so nothing runs
without requests, and any process shows the sum of all. The first snapshot is taken when the process starts: earlier
counts of other processes do not belong to its first minute.
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

Buckets = dict[float, float]  # upper bound in seconds → number that took at most that long


@dataclass(frozen=True)
class Snapshot:
    """Counts since the start, at one moment of the clock."""

    at_s: float = 0.0
    requests: dict[tuple[str, str], float] = field(default_factory=dict)  # route, status → requests
    routes: dict[str, Buckets] = field(default_factory=dict)
    stages: dict[str, Buckets] = field(default_factory=dict)
    degraded: dict[str, float] = field(default_factory=dict)  # reason → answers
    caches: dict[str, dict[str, float]] = field(default_factory=dict)  # cache → what → number
    workers: Mapping[str, WorkerReport] | None = None  # by name; None: not asked, or the store was away


def snapshot(
    metrics: Iterable[Metric], at_s: float, workers: Mapping[str, WorkerReport] | None = None
) -> Snapshot:
    """The counts of now."""
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
    """The latest snapshot against the oldest of the last `WINDOW_S`, or against `begin`. Stores at most one per second.
    Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: deque[Snapshot] = deque([Snapshot(clock())])

    def begin(self, metrics: Iterable[Metric]) -> None:
        """Start here: the metrics of several processes, or of a restarted one, do not start at 0."""
        now = snapshot(metrics, self._clock())
        with self._lock:
            self._taken = deque([now])

    def compare(
        self, metrics: Iterable[Metric], workers: Mapping[str, WorkerReport] | None = None
    ) -> tuple[Snapshot, Snapshot]:
        """Then and now."""
        now = snapshot(metrics, self._clock(), workers)
        with self._lock:
            while len(self._taken) > 1 and now.at_s - self._taken[0].at_s > WINDOW_S:
                self._taken.popleft()
            # the oldest report of each worker within the window: some may have been missing meanwhile
            known = [taken.workers for taken in self._taken if taken.workers is not None]
            oldest = {name: report for workers in reversed(known) for name, report in workers.items()}
            then = replace(self._taken[0], workers=oldest if known else None)
            if now.at_s - self._taken[-1].at_s >= _KEEP_EVERY_S:
                self._taken.append(now)
        return then, now


def quantile(then: Buckets, now: Buckets, q: float) -> float | None:
    """The `q` quantile of the observations since `then`, in seconds, linear within a bucket; None without any."""
    bounds = sorted(now)
    counts = [now[bound] - then.get(bound, 0.0) for bound in bounds]  # negative if a process has ended
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
    """The number of observations since `then`."""
    most = float("inf")
    return max(0.0, now.get(most, 0.0) - then.get(most, 0.0))


def made_readable(then: Snapshot, now: Snapshot) -> Buckets | None:
    """Cumulative counts of what the live workers have made readable since `then`, by time; None: unknown.
    All counts of a worker that started since then belong here. An older one without a report then, as after an outage,
    is left out: how much of its counts is new is unknown."""
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
