"""The API's Prometheus metrics: one instance per app, with its own registry.

With several processes, `/metrics` of any shows the sum of all (`serving.environment`).
"""

import os
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
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
from recsys.energy import ProcessEnergy
from serving.caching.cache import Cache
from serving.environment import MULTIPROCESS_DIR

STAGE_SAMPLE = 8  # a request has some fifteen stages; timing all of them would cost a sixth of a millisecond
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series each, which nothing reads
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.15, 0.5, 2.0)


class Telemetry:
    """Every metric of the API. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        summed = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        largest = partial(Gauge, registry=self.registry, multiprocess_mode="livemax")
        self._requests = counter("recsys_http_requests", "Requests answered.", ("route", "method", "status"))
        self._seconds = histogram("recsys_http_seconds", "Time of a request.", ("route",))
        self.in_flight = summed("recsys_http_in_flight", "Requests being answered.")
        self.shed = counter("recsys_http_shed", "Requests refused with 503: too many in flight.")
        self._stage_seconds = histogram(
            "recsys_stage_seconds",
            f"Time of one stage of the request path, of one request in {STAGE_SAMPLE}.",
            ("stage",),
        )
        self._paths = counter(
            "recsys_request_path",
            "Lists made by compiled code where it can, or by the stages alone.",
            ("path",),
        )
        self._stage_outcomes = counter(
            "recsys_stage_failures", "Stages that failed, timed out or were skipped.", ("stage", "status")
        )
        self._degraded = counter(
            "recsys_degraded", "Answers that named this reason in `degraded`.", ("reason",)
        )
        self._non_finite = counter(
            "recsys_non_finite_scores", "Candidates moved to the end: NaN or infinite score."
        )
        self.events = counter("recsys_api_events", "Events received by the API.", ("result",))
        self.unproven_events = counter(
            "recsys_api_unproven_events",
            "Events that name a request without proof that it showed them the item.",
            ("why",),
        )
        self.impressions = counter(
            "recsys_impressions",
            "Lists logged; kind narrowed: from some place on their request left little choice (docs/trust.md).",
            ("kind",),
        )
        self.impressions_dropped = counter(
            "recsys_impressions_dropped", "Impressions not logged: queue or spool full."
        )
        self.outbox_bytes = summed("recsys_outbox_bytes", "Accepted and not yet in Kafka.", ("topic",))
        self.item_features_age = largest(
            "recsys_item_features_age_seconds", "Since the item features were last known to be current."
        )
        self.damaged = largest("recsys_store_damaged", "Entities of the store that are damaged and skipped.")
        self.damaged_files = largest(
            "recsys_damaged_files", "Files of the operator that are damaged and not in force."
        )
        self._bundle = largest("recsys_bundle_info", "1 for the active bundle.", ("version",))
        self.bundle_loads = counter("recsys_bundle_loads", "Bundles loaded or refused.", ("result",))
        self.bundle_bytes = summed("recsys_bundle_bytes", "Estimated memory of the loaded bundles.")
        self.shadow = counter("recsys_shadow", "Requests mirrored to the shadow bundle.", ("result",))
        self._release_seconds = histogram(
            "recsys_release_seconds", "Time of a list by the arm of the release that runs.", ("arm",)
        )
        self._release_degraded = counter(
            "recsys_release_degraded", "Degraded lists by the arm of the release that runs.", ("arm",)
        )
        self._cache = summed(
            "recsys_cache",
            "A cache's hits, misses, evictions and prefetches since the start; its bytes and their bound now.",
            ("cache", "what"),
        )
        self._energy = summed(
            "recsys_process_energy_joules",
            "Modelled energy of the API's processes, each as of its latest scrape.",
            ("source", "bound"),
        )
        self._process_energy = ProcessEnergy()
        self._version = ""
        self._answers = count()
        # `labels` takes a lock and hashes tuples, so each child is looked up once
        self._request_child = lru_cache(1024)(self._requests.labels)
        self._seconds_child = lru_cache(256)(self._seconds.labels)
        self._stage_child = lru_cache(256)(self._stage_seconds.labels)
        self._path_child = lru_cache(2)(self._paths.labels)
        self.before_scrape: list[Callable[[], None]] = [self._set_energy]

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._request_child(route, method, str(status)).inc()
        self._seconds_child(route).observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Note what failed in one answered request, and for a sample how long each stage took."""
        timed = next(self._answers) % STAGE_SAMPLE == 0
        for outcome in answer.outcomes:
            if timed:
                self._stage_child(outcome.stage).observe(outcome.ms / 1e3)
            if outcome.status != "ok":
                self._stage_outcomes.labels(outcome.stage, str(outcome.status)).inc()
            if outcome.non_finite:
                self._non_finite.inc(outcome.non_finite)

    def listed(self, answer: Answer) -> None:
        """Note what made a list."""
        self._path_child("compiled" if answer.compiled else "stages").inc()

    def degraded(self, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._degraded.labels(reason).inc()

    def release(self, arm: str, seconds: float, degraded: bool) -> None:
        """Note a list of a user who takes part in a release."""
        self._release_seconds.labels(arm).observe(seconds)
        self._release_degraded.labels(arm).inc(degraded)

    def cache(self, name: str, cache: Cache[Any, Any]) -> None:
        for what in ("hits", "misses", "evictions", "prefetched", "bytes", "max_bytes"):
            self._cache.labels(name, what).set(getattr(cache, what))

    def bundle(self, version: str) -> None:
        """From now on this bundle is active."""
        if self._version:
            self._bundle.labels(self._version).set(0)
        self._bundle.labels(version).set(1)
        self._version = version

    def _set_energy(self) -> None:
        energy = self._process_energy.read()
        for bound, joules in (("low", energy.low), ("typical", energy.joules), ("high", energy.high)):
            self._energy.labels(energy.source, bound).set(joules)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._refreshed())

    def collect(self) -> Iterable[Metric]:
        """The same as objects."""
        return self._refreshed().collect()

    def _refreshed(self) -> CollectorRegistry:
        """This process's metrics; with several workers, the sum of all."""
        for refresh in self.before_scrape:
            refresh()
        if MULTIPROCESS_DIR not in os.environ:
            return self.registry
        total = CollectorRegistry()
        MultiProcessCollector(total)  # type: ignore[no-untyped-call]
        return total
