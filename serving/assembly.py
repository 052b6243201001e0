"""The composition root: the one place that knows which parts an API process has and how they fit together.

The only module of serving that imports the Kafka client (`streaming.log`).
"""

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.event_log import EventSink
from recsys.contracts.types import MS_PER_DAY
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.items.catalogue import Catalogue
from recsys.pipeline.hydrators import UserHydrator
from recsys.pipeline.stages import SideEffect
from recsys.recall.repeat_consumption import RepeatConsumption
from recsys.rerank.reranker import RerankConfig
from recsys.rerank.rules import RuleBook
from recsys.simulation.clock import clock_of
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore
from recsys.store.replays import MemoryReplays, RedisReplays
from recsys.store.token_bucket import RedisTokenBuckets
from serving.api.cursors import Cursors, cursor_key
from serving.api.monitoring.experiment_outcomes import ExperimentOutcomes
from serving.api.monitoring.log_ends import LogEnds
from serving.api.security import Keys
from serving.breaker import Breaker, Guarded
from serving.caching.cache import Cache
from serving.caching.memory_guard import MemoryGuard
from serving.engine.experiments import Experiments
from serving.engine.feature_source import ItemFeatures
from serving.engine.index_backend import IndexPlace
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.request_spans import TracedReads
from serving.engine.result_cache import ResultCache
from serving.engine.runtime import (
    RERANK_POOL,
    USER_FEATURES,
    Limits,
    PathConfig,
    Runtime,
    build_runtime,
    weigh,
)
from serving.engine.shadow import Shadow
from serving.engine.user_attributes import UserAttributes
from serving.ingest.impression_log import ImpressionLog, ImpressionWriter
from serving.ingest.outbox import Outbox
from serving.remote.client import Apart
from serving.remote.transport import Hop
from serving.services import Services
from serving.settings import FeatureSource, ServingSettings
from serving.telemetry import Telemetry
from streaming.log import KafkaSink, KafkaSource

IO_THREADS = 4
_IMPRESSIONS_LINGER_S = 0.2  # nobody waits for them; features may be a second old


def assemble(settings: ServingSettings, telemetry: Telemetry) -> Services:
    """Every part, on Redis and Kafka. Neither needs to be there yet.

    Raises:
        InvalidConfig: an address is missing.
    """
    if not settings.redis_url or not settings.kafka_bootstrap:
        raise InvalidConfig(
            "set RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP, or run `recsys up` and `recsys serve`"
        )
    config = StoreConfig(partitions=settings.partitions)
    services = compose(
        settings,
        telemetry,
        store=RedisFeatureStore(settings.redis_url, FEATURES, config, settings.redis_namespace),
        request_store=_request_store(settings, config),
        sink=KafkaSink(settings.kafka_bootstrap),
        nightly=_nightly(settings),
        now_ms=clock_of(settings.clock),
    )
    ends = LogEnds(lambda: KafkaSource(settings.kafka_bootstrap), settings.partitions)
    services.log_ends, close = ends, services.close

    def close_all() -> None:
        ends.close()
        close()

    services.close = close_all
    services.replays = RedisReplays(
        settings.redis_url,
        settings.idempotency_s,
        settings.store_timeout_ms / 1e3,
        settings.redis_namespace,
    )
    if settings.rate_per_key:
        buckets = RedisTokenBuckets(
            settings.redis_url,
            settings.rate_per_key,
            settings.burst_per_key,
            settings.store_timeout_ms / 1e3,
            settings.redis_namespace,
        )
        guard = Breaker()
        services.take_tokens = lambda key, tokens: guard.call(lambda: buckets.take(key, tokens))
    return services


def _nightly(settings: ServingSettings) -> NightlyStore | None:
    if settings.feature_source is FeatureSource.STREAM:
        return None
    return NightlyStore(
        settings.redis_url, FEATURES, settings.redis_namespace, settings.store_timeout_ms / 1e3
    )


def _request_store(settings: ServingSettings, config: StoreConfig) -> FeatureStore:
    """What a request waits for: with its short timeout, and with spans when traces are on."""
    store = RedisFeatureStore(
        settings.redis_url,
        FEATURES,
        config,
        settings.redis_namespace,
        timeout_s=settings.store_timeout_ms / 1e3,
    )
    return cast("FeatureStore", TracedReads(store)) if settings.traces else store


def compose(
    settings: ServingSettings,
    telemetry: Telemetry,
    store: FeatureStore,
    request_store: FeatureStore,
    sink: EventSink,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    nightly: NightlyStore | None = None,
) -> Services:
    """Every part, on any store and log.

    Args:
        store: for everything that no recommendation waits for.
        request_store: the same data, with the short timeout of a request.
        nightly: last night's features, which are then read instead of those in the stores.
    """
    with ExitStack() as opened:  # closed in reverse order: by the services, or here when a later part fails
        for resource in (store, request_store, sink):
            opened.callback(resource.close)
        if nightly is not None:
            opened.callback(nightly.close)
        spool, most = settings.spool_folder, settings.spool_max_bytes
        events = Outbox(spool / "events", sink, most, settings.spool_fsync)
        opened.callback(events.close)
        impressions = Outbox(spool / "impressions", sink, most, linger_s=_IMPRESSIONS_LINGER_S)
        opened.callback(impressions.close)
        writer = ImpressionWriter(impressions, telemetry)
        opened.callback(writer.close)
        cpu = opened.enter_context(ThreadPoolExecutor(settings.threads, "cpu"))
        io = opened.enter_context(ThreadPoolExecutor(IO_THREADS, "io"))
        prefetch = opened.enter_context(ThreadPoolExecutor(1, "prefetch"))
        feed = ItemFeed(store, now_ms)
        opened.callback(feed.close)
        breaker = Breaker()
        path = PathConfig(settings.candidates, RerankConfig(pool=RERANK_POOL, diversity=settings.diversity))
        apart = _apart(settings)
        opened.callback(apart.close)
        host = _host(settings, telemetry, store, request_store, nightly, breaker, feed, writer, path, apart)
        opened.callback(host.close)
        experiments = Experiments(settings.experiments, path)
        host.wanted.append(lambda: experiments.bundles)
        shadow = Shadow(settings.bundles, host, settings.shadow_share, telemetry)
        opened.callback(shadow.close)
        services = Services(
            settings=settings,
            telemetry=telemetry,
            keys=Keys(settings.api_keys),
            host=host,
            experiments=experiments,
            store=store,
            results=ResultCache(
                lambda user_id: breaker.call(
                    lambda: request_store.history_version(user_id, ENGAGED_VISITS.name)
                ),
                settings.result_cache_bytes,
                settings.result_cache_ms / 1e3,
                lambda job: (
                    prefetch.submit(job) if services.in_flight <= 1 else None
                ),  # only the asker is there
            ),
            feed=feed,
            events=events,
            impressions=impressions,
            cpu=cpu,
            io=io,
            now_ms=now_ms,
            cursors=Cursors(cursor_key(settings.cursor_key_file), settings.cursor_s * 1_000),
            replays=MemoryReplays(),
            shadow=shadow,
            outcomes=ExperimentOutcomes(settings.lake),
        )
        telemetry.before_scrape.append(lambda: _gauges(services))
        services.window.begin(telemetry.collect())
        guard = MemoryGuard(lambda: _caches(services))
        opened.callback(guard.close)
        guard.start()
        feed.start()
        shadow.start()
        host.follow(settings.bundle_poll_s)
        services.close = opened.pop_all().close
    return services


def _host(
    settings: ServingSettings,
    telemetry: Telemetry,
    store: FeatureStore,
    request_store: FeatureStore,
    nightly: NightlyStore | None,
    breaker: Breaker,
    feed: ItemFeed,
    writer: ImpressionWriter,
    path: PathConfig,
    apart: Apart,
) -> ModelHost[Runtime]:
    attributes = UserAttributes(settings.lake / "users" / "users.parquet", FEATURES)
    states = nightly or request_store
    read_user = Guarded(UserHydrator(states, attributes.of, name=USER_FEATURES), breaker)
    rules = RuleBook(settings.rules) if settings.rules else None
    limits = Limits(
        path,
        vector_cache_bytes=settings.vector_cache_bytes,
        batch=settings.batch,
        batch_wait_ms=settings.batch_wait_ms,
        repeat=RepeatConsumption(settings.repeat_carts, round(settings.repeat_after_days * MS_PER_DAY)),
        index=IndexPlace.of(settings),
        features=ItemFeatures(settings.feature_source, nightly),
    )

    def side_effects(bundle: Bundle, catalogue: Catalogue) -> list[SideEffect]:
        if not settings.log_impressions:
            return []
        return [
            ImpressionLog(writer, catalogue, bundle.manifest.version, bundle.manifest.feature_fingerprint)
        ]

    def load(bundle: Bundle) -> Runtime:
        runtime = build_runtime(bundle, read_user, limits, rules, side_effects, apart)
        feed.attach(runtime.live)
        _settle()
        return runtime

    def store_fingerprint() -> str | None:
        try:
            return store.fingerprint()
        except Unavailable:
            return None  # checked again by the store itself once it is back

    return ModelHost(
        settings.bundles,
        load,
        release=lambda runtime: feed.detach(runtime.live),
        code_fingerprint=FEATURES.fingerprint,
        store_fingerprint=store_fingerprint,
        telemetry=telemetry,
        weigh=weigh,
        max_bytes=settings.bundle_bytes,
    )


def _apart(settings: ServingSettings) -> Apart:
    wait_s = settings.deadline_ms / 1e3
    return Apart(
        Hop(settings.recall_url, wait_s) if settings.recall_url else None,
        Hop(settings.rank_url, wait_s) if settings.rank_url else None,
    )


def _settle() -> None:
    """Take a bundle's hundred thousands of objects out of the garbage collector's sight: looking through them again
    and again would stop every request for a tenth of a second."""
    gc.unfreeze()  # those of bundles that are gone
    gc.collect()
    gc.freeze()


def _caches(services: Services) -> list[Cache[Any, Any]]:
    return [services.results.cache, *(runtime.tower.cache for runtime in services.host.runtimes)]


def _gauges(services: Services) -> None:
    """What is read when somebody looks, not when it changes."""
    telemetry = services.telemetry
    telemetry.outbox_bytes.labels("events").set(services.events.backlog_bytes)
    telemetry.outbox_bytes.labels("impressions").set(services.impressions.backlog_bytes)
    telemetry.item_features_age.set(services.feed.age_s)
    telemetry.cache("results", services.results.cache)
    telemetry.bundle_bytes.set(sum(services.host.loaded.values()))
    runtime = services.host.runtime()
    if runtime is not None:
        telemetry.cache("user_vectors", runtime.tower.cache)
