"""What the API counts, in Prometheus' terms. One instance an app, with its own registry.

With several workers, `recsys serve` sets PROMETHEUS_MULTIPROC_DIR and `/metrics` of any worker shows the sum of all.
"""

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import count
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from recsys.contracts.request import Answer
from serving.caching.cache import Cache

STAGE_SAMPLE = (
    8  # a request has some fifteen stages; counting all of them would take it a sixth of a millisecond
)
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series each, which nobody reads
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.15, 0.5, 2.0)


class Telemetry:
    """Every metric of the API. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter(
            "recsys_http_requests", "Requests answered.", ("route", "method", "status"), registry=r
        )
        self._seconds = Histogram(
            "recsys_http_seconds", "Time of a request.", ("route",), buckets=_SECONDS, registry=r
        )
        self.in_flight = Gauge(
            "recsys_http_in_flight",
            "Requests being answered.",
            registry=r,
            multiprocess_mode="livesum",
        )
        self.shed = Counter("recsys_http_shed", "Requests refused with 503: too many in flight.", registry=r)
        self._stage_seconds = Histogram(
            "recsys_stage_seconds",
            f"Time of one stage of the request path, of one request in {STAGE_SAMPLE}.",
            ("stage",),
            buckets=_SECONDS,
            registry=r,
        )
        self._stage_outcomes = Counter(
            "recsys_stage_failures", "Stages that did not do their part.", ("stage", "status"), registry=r
        )
        self._degraded = Counter(
            "recsys_degraded", "Answers that named this reason in `degraded`.", ("reason",), registry=r
        )
        self._non_finite = Counter(
            "recsys_non_finite_scores", "Candidates that sank: NaN or infinite score.", registry=r
        )
        self.events = Counter("recsys_api_events", "Events received by the API.", ("result",), registry=r)
        self.impressions_dropped = Counter(
            "recsys_impressions_dropped", "Impressions not logged: queue or spool full.", registry=r
        )
        self.outbox_bytes = Gauge(
            "recsys_outbox_bytes",
            "Accepted and not yet in Kafka.",
            ("topic",),
            registry=r,
            multiprocess_mode="livesum",
        )
        self.item_features_age = Gauge(
            "recsys_item_features_age_seconds",
            "Since the item features were last known to be current.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self._bundle = Gauge(
            "recsys_bundle_info",
            "1 for the bundle that answers.",
            ("version",),
            registry=r,
            multiprocess_mode="livemax",
        )
        self.bundle_loads = Counter(
            "recsys_bundle_loads", "Bundles loaded or refused.", ("result",), registry=r
        )
        self.bundle_bytes = Gauge(
            "recsys_bundle_bytes",
            "Memory that the loaded bundles are thought to take.",
            registry=r,
            multiprocess_mode="livesum",
        )
        self.shadow = Counter(
            "recsys_shadow", "Requests that the shadow bundle answered, too.", ("result",), registry=r
        )
        self._cache = Gauge(
            "recsys_cache",
            "A cache's hits, misses, evictions and prefetches since the start; its bytes and their bound now.",
            ("cache", "what"),
            registry=r,
            multiprocess_mode="livesum",
        )
        self._version = ""
        self._answers = count()
        # `labels` takes a lock and hashes tuples; a child is looked up once
        self._request_child = lru_cache(1024)(self._requests.labels)
        self._seconds_child = lru_cache(256)(self._seconds.labels)
        self._stage_child = lru_cache(256)(self._stage_seconds.labels)
        self.before_scrape: list[Callable[[], None]] = []

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._request_child(route, method, str(status)).inc()
        self._seconds_child(route).observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Note what failed in one answered request, and of a sample how long each stage took."""
        timed = next(self._answers) % STAGE_SAMPLE == 0
        for outcome in answer.outcomes:
            if timed:
                self._stage_child(outcome.stage).observe(outcome.ms / 1e3)
            if outcome.status != "ok":
                self._stage_outcomes.labels(outcome.stage, str(outcome.status)).inc()
            if outcome.non_finite:
                self._non_finite.inc(outcome.non_finite)

    def degraded(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._degraded.labels(reason).inc()

    def cache(self, name: str, cache: Cache[Any, Any]) -> None:
        """Note how a cache has done so far."""
        for what, value in (
            ("hits", cache.hits),
            ("misses", cache.misses),
            ("evictions", cache.evictions),
            ("prefetched", cache.prefetched),
            ("bytes", cache.bytes),
            ("max_bytes", cache.max_bytes),
        ):
            self._cache.labels(name, what).set(value)

    def bundle(self, version: str) -> None:
        """From now on this bundle answers."""
        if self._version:
            self._bundle.labels(self._version).set(0)
        self._bundle.labels(version).set(1)
        self._version = version

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        for refresh in self.before_scrape:
            refresh()
        return generate_latest(self._everyone())

    def collect(self) -> Iterable[Metric]:
        """The same as objects."""
        for refresh in self.before_scrape:
            refresh()
        return self._everyone().collect()

    def _everyone(self) -> CollectorRegistry:
        """This process's metrics; with several workers, the sum of all."""
        if MULTIPROCESS_DIR not in os.environ:
            return self.registry
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return everyone
