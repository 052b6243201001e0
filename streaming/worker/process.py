"""The process of a feature worker: it connects, works until it is stopped, and closes."""

import contextlib
import gc
import sys
import threading
from collections.abc import Sequence

from recsys.features.definitions import FEATURES
from recsys.native import serves
from recsys.observability.exporters import open_traces
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink, KafkaSource
from streaming.settings import StreamSettings
from streaming.worker.claims import WorkerConfig
from streaming.worker.feature_worker import FeatureWorker
from streaming.worker.metrics import WorkerMetrics

GROUP = "feature-worker"


def main(
    settings: StreamSettings, stop: threading.Event, partitions: Sequence[int] = (), accept_gap: bool = False
) -> WorkerMetrics:
    """Run one worker until `stop`. Without `partitions`, it shares all of them with the other workers."""
    store, sink = open_store(settings), KafkaSink(settings.kafka, settings.partitions)
    traces = open_traces(settings.traces, "recsys-worker")
    worker = FeatureWorker(store, sink, worker_config(settings), traces=traces)
    if settings.worker_metrics_port:
        worker.metrics.serve(settings.worker_metrics_port)
    if partitions:
        worker.own(partitions)
    # make cyclic garbage collection rare: events create no cycles, and a full collection takes 80 ms
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # the thread that calls the store needs the interpreter for moments, twice a batch: it waits .1 ms for it, not 5
    sys.setswitchinterval(1e-4)
    with contextlib.ExitStack() as opened:
        for made in (traces, store, sink):
            if made is not None:
                opened.enter_context(contextlib.closing(made))
        waits = worker.metrics.stepped
        source = KafkaSource.once_reachable(
            settings.kafka, stop, waits, accept_gap=accept_gap, group_id=GROUP
        )
        if source is not None:
            with contextlib.closing(source):
                worker.run(source, stop)
    return worker.metrics


def open_store(settings: StreamSettings) -> RedisFeatureStore:
    """The store as workers of every engine write it. Raises `InvalidConfig`: the URL is not a Redis URL."""
    config = StoreConfig(
        settings.partitions,
        dedupe_ms=settings.time_rules.late_ms,
        max_users=settings.max_users,
        max_items=settings.max_items,
    )
    url, native = settings.redis_url.get_secret_value(), serves(settings.native)
    return RedisFeatureStore(url, FEATURES, config, settings.redis_namespace, native=native)


def worker_config(settings: StreamSettings) -> WorkerConfig:
    return WorkerConfig(settings.partitions, settings.time_rules, max_batch=settings.worker_batch)
