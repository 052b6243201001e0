"""The composition root: the one place that knows every part of an API process and how they fit together.

The only module of serving that imports the Kafka client (`streaming.log`).
"""

import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, cast

from starlette.applications import Starlette

from recsys.bundle import CURRENT, Bundle
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.event_log import EventSink
from recsys.experiments.release_file import STATE as RELEASE
from recsys.extras import extra_named
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.items.catalogue import Catalogue
from recsys.native import serves
from recsys.pipeline.hydrators import UserHydrator
from recsys.pipeline.stages import SideEffect
from recsys.recall.repeat_consumption import RepeatPolicy
from recsys.rerank.reranker import RerankConfig
from recsys.rerank.rules import RuleBook
from recsys.simulation.clock import clock_of
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.damage import Damage
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore
from recsys.store.replays import MemoryReplays, RedisReplays, Replays
from recsys.store.token_bucket import RedisTokenBuckets
from serving.api.accepted_changes import ChangeIntake, SourceOfTruth, TopicsAlone
from serving.api.access import Access, TakeTokens
from serving.api.admission import Admission
from serving.api.app import create_app
from serving.api.cursors import Cursors, cursor_key
from serving.api.idempotency import Idempotency
from serving.api.monitoring.experiment_outcomes import ExperimentOutcomes
from serving.api.monitoring.log_ends import LogEnds
from serving.api.monitoring.system import SystemView
from serving.api.request_path import RequestPath
from serving.api.routes.events import EventIntake
from serving.api.routes.recommendations import Recommender
from serving.api.security import Keys
from serving.breaker import Breaker, Guarded
from serving.caching.cache import Cache
from serving.caching.memory_guard import MemoryGuard
from serving.engine.artifacts import LoadOptions
from serving.engine.device_models import DeviceModels
from serving.engine.experiments import Experiments
from serving.engine.feature_source import ItemFeatures
from serving.engine.index_backend import IndexPlace
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.pipeline_builder import RERANK_POOL, PathConfig, PipelineConfig
from serving.engine.request_spans import TracedReads
from serving.engine.result_cache import ResultCache
from serving.engine.runtime import USER_FEATURES, Runtime, build_runtime
from serving.engine.served_features import ServedFeatures
from serving.engine.shadow import Shadow
from serving.engine.user_attributes import UserAttributes
from serving.ingest.impression_log import ImpressionLog, ImpressionWriter
from serving.ingest.item_tokens import ItemTokens
from serving.ingest.lateness import Lateness
from serving.ingest.outbox import Outbox, Outboxes
from serving.remote.client import RemoteServices
from serving.remote.transport import RpcClient
from serving.service_assembly import assemble_service, model_host
from serving.settings import FeatureSource, Role, ServingSettings
from serving.telemetry import Telemetry
from streaming.log import KafkaSink, KafkaSource

IO_THREADS = 4
# No request waits for them. What a partition gets within it is one record batch, one fetch, one script call.
_IMPRESSIONS_LINGER_S = 1.0


def make_app(settings: ServingSettings) -> Starlette:
    """The app of the settings' role. Raises what `IndexPlace` does: here it ends as one sentence, while uvicorn logs
    a traceback of what an app raises as it starts."""
    if settings.role is not Role.RANK:
        IndexPlace.of(settings)
    if settings.role is Role.API:
        return create_app(settings, assemble)
    return assemble_service(settings, Telemetry())


@dataclass
class Services:
    """Everything that an API process consists of. No route gets all of it: see `serving.api.dependencies`."""

    settings: ServingSettings
    telemetry: Telemetry
    now_ms: Callable[[], int]
    access: Access
    admission: Admission
    host: ModelHost[Runtime]
    devices: DeviceModels
    experiments: Experiments
    damaged_files: Callable[[], Mapping[str, str]]  # what is not in force, and why
    store: FeatureStore
    feed: ItemFeed
    outboxes: Outboxes
    idempotency: Idempotency
    changes: ChangeIntake
    events: EventIntake
    request_path: RequestPath
    recommender: Recommender
    shadow: Shadow
    outcomes: ExperimentOutcomes
    system: SystemView
    close: Callable[[], object]  # accepted records are delivered or stay in the spool


def assemble(settings: ServingSettings, telemetry: Telemetry) -> Services:
    """Everything on Redis and Kafka. Neither needs to be there yet. Raises `InvalidConfig`: an address is missing."""
    if not settings.redis_url or not settings.kafka_bootstrap:
        raise InvalidConfig(
            "set RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP, or run `recsys up` and `recsys serve`"
        )
    config = StoreConfig(partitions=settings.partitions)
    url, namespace = settings.redis_url.get_secret_value(), settings.redis_namespace
    timeout_s = settings.store_timeout_ms / 1e3
    damage = Damage()  # found by requests or by the item feed
    native = serves(settings.native)
    request_store = RedisFeatureStore(url, FEATURES, config, namespace, timeout_s, damage, native)
    streamed = settings.feature_source is FeatureSource.STREAM
    return compose(
        settings,
        telemetry,
        store=RedisFeatureStore(url, FEATURES, config, namespace, damage=damage),
        request_store=cast("FeatureStore", TracedReads(request_store)) if settings.traces else request_store,
        sink=KafkaSink(settings.kafka, settings.partitions),
        now_ms=clock_of(settings.clock),
        nightly=None if streamed else NightlyStore(url, FEATURES, namespace, timeout_s, damage),
        replays=RedisReplays(url, settings.idempotency_s, timeout_s, namespace),
        take_tokens=_take_tokens(settings) if settings.rate_per_key else None,
        log_ends=LogEnds(lambda: KafkaSource(settings.kafka)),
        truth=_database(settings) if settings.database_url else None,
    )


def _database(settings: ServingSettings) -> SourceOfTruth:
    with extra_named("RECSYS_DATABASE_URL"):
        from recsys.catalogue_db.database import CatalogueDatabase  # most processes never need SQLAlchemy
    return CatalogueDatabase.of(settings)


def _take_tokens(settings: ServingSettings) -> TakeTokens:
    timeout_s, breaker = settings.store_timeout_ms / 1e3, Breaker()
    rate = settings.rate_per_key, settings.burst_per_key
    buckets = RedisTokenBuckets(
        settings.redis_url.get_secret_value(), *rate, timeout_s, settings.redis_namespace
    )
    return lambda key, tokens: breaker.call(lambda: buckets.take(key, tokens))


def compose(
    settings: ServingSettings,
    telemetry: Telemetry,
    store: FeatureStore,
    request_store: FeatureStore,
    sink: EventSink,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    nightly: NightlyStore | None = None,
    replays: Replays | None = None,
    take_tokens: TakeTokens | None = None,
    log_ends: LogEnds | None = None,
    truth: SourceOfTruth | None = None,
) -> Services:
    """Everything, on any store and log.
    `store`: for everything that no recommendation waits for.
    `request_store`: the same data, with the short timeout of a request.
    `nightly`: last night's features, read instead of those in the stores.
    `truth`: where changes of items and users are stored first; None: in the topics."""
    with ExitStack() as opened:  # closed in reverse order: by the services, or here when a later step fails
        keep = opened.enter_context
        for given in (store, request_store, sink, nightly, log_ends, truth):
            if given is not None:
                keep(closing(given))
        spool, most = settings.spool_folder, settings.spool_max_bytes
        outboxes = Outboxes(
            keep(closing(Outbox(spool / "events", sink, most, settings.spool_fsync))),
            keep(closing(Outbox(spool / "impressions", sink, most, linger_s=_IMPRESSIONS_LINGER_S))),
        )
        writer = keep(closing(ImpressionWriter(outboxes.impressions, telemetry)))
        cpu = keep(ThreadPoolExecutor(settings.threads, "cpu"))
        io = keep(ThreadPoolExecutor(IO_THREADS, "io"))
        prefetch = keep(ThreadPoolExecutor(1, "prefetch"))
        feed = keep(closing(ItemFeed(store, now_ms)))
        breaker = Breaker()
        attributes = UserAttributes(settings.lake / "users" / "users.parquet", FEATURES)
        read_user = UserHydrator(
            nightly or request_store, attributes.of, attributes.region, name=USER_FEATURES
        )
        wait_s = settings.deadline_ms / 1e3
        urls = (settings.recall_url, settings.rank_url)
        remote = RemoteServices(*(RpcClient(url, wait_s) if url else None for url in urls))
        rules = RuleBook(settings.rules) if settings.rules else None
        config = PipelineConfig(
            Guarded(read_user, breaker),
            _side_effects(writer) if settings.log_impressions else lambda bundle, catalogue: [],
            PathConfig(settings.candidates, RerankConfig(pool=RERANK_POOL, diversity=settings.diversity)),
            rules,
            None if settings.repeats is None else RepeatPolicy(settings.repeats),
            keep(closing(remote)),
            native=serves(settings.native),
        )
        host = keep(closing(_host(settings, telemetry, store, nightly, feed, config)))
        experiments = Experiments(settings.experiments, config.path, settings.bundles / RELEASE)
        host.wanted.append(lambda: experiments.bundles)
        shadow = keep(closing(Shadow(settings.bundles, host, settings.shadow_share, telemetry)))
        admission = Admission(settings, telemetry, cpu)
        results = ResultCache(
            lambda user_id: breaker.call(lambda: request_store.history_version(user_id, ENGAGED_VISITS.name)),
            settings.result_cache_bytes,
            settings.result_cache_ms / 1e3,
            settings.result_cache_longest_ms / 1e3,
            # only while the request that asks is the only one
            lambda job: prefetch.submit(job) if admission.in_flight <= 1 else None,
        )
        access = Access(Keys(settings.api_keys), io, take_tokens)
        idempotency = Idempotency(replays or MemoryReplays(), now_ms)
        path = RequestPath(settings, access, admission, host, experiments, feed, telemetry, now_ms)
        key = cursor_key(settings.cursor_key_file)
        cursors = Cursors(key, settings.cursor_s * 1_000)
        tokens = ItemTokens(key, settings.time_rules, settings.item_tokens)
        served = ServedFeatures()
        system = SystemView(telemetry, host, store, feed, outboxes, served, settings.partitions, log_ends)

        def damaged_files() -> Mapping[str, str]:
            errors = {
                "rules": rules.error if rules else "",
                "experiments": experiments.error,
                RELEASE: experiments.release_error,
                "users": attributes.error,
                CURRENT: host.refused.get(CURRENT, ""),
            }
            return {name: error for name, error in errors.items() if error}

        telemetry.before_scrape.append(lambda: _gauges(telemetry, host, store, outboxes, feed, results))
        telemetry.before_scrape.append(lambda: telemetry.damaged_files.set(len(damaged_files())))
        system.window.begin(telemetry.collect())
        guard = keep(closing(MemoryGuard(lambda: _caches(results, host))))
        for background in (guard, feed, shadow):
            background.start()
        host.follow(settings.bundle_poll_s)
        changes = ChangeIntake(truth or TopicsAlone(outboxes.events), outboxes.events, store, idempotency)
        lateness = Lateness(store, settings.time_rules, settings.partitions)
        events = EventIntake(
            access, outboxes.events, idempotency, lateness, tokens, host, telemetry, io, settings.max_batch
        )
        recommender = Recommender(path, results, cursors, tokens, served, shadow, store)
        return Services(
            settings=settings,
            telemetry=telemetry,
            now_ms=now_ms,
            access=access,
            admission=admission,
            host=host,
            devices=DeviceModels(settings.bundles, host),
            experiments=experiments,
            damaged_files=damaged_files,
            store=store,
            feed=feed,
            outboxes=outboxes,
            idempotency=idempotency,
            changes=changes,
            events=events,
            request_path=path,
            recommender=recommender,
            shadow=shadow,
            outcomes=ExperimentOutcomes(settings.lake),
            system=system,
            close=opened.pop_all().close,
        )


def _side_effects(writer: ImpressionWriter) -> Callable[[Bundle, Catalogue], list[SideEffect]]:
    def of(bundle: Bundle, catalogue: Catalogue) -> list[SideEffect]:
        manifest = bundle.manifest
        return [ImpressionLog(writer.put, catalogue, manifest.version, manifest.feature_fingerprint)]

    return of


def _host(
    settings: ServingSettings,
    telemetry: Telemetry,
    store: FeatureStore,
    nightly: NightlyStore | None,
    feed: ItemFeed,
    config: PipelineConfig,
) -> ModelHost[Runtime]:
    place, native = IndexPlace.of(settings), serves(settings.native)
    features = ItemFeatures(settings.feature_source, nightly, native)
    options = LoadOptions(
        place,
        features,
        settings.vector_cache_bytes,
        settings.batch,
        settings.batch_wait_ms,
        native,
        settings.trust,
    )

    def load(bundle: Bundle) -> Runtime:
        runtime = build_runtime(bundle, config, options)
        feed.attach(runtime.live)
        _settle()
        return runtime

    def release(runtime: Runtime) -> None:
        feed.detach(runtime.live)
        runtime.artifacts.tower.cache.resize(0)  # its entries refer to each other

    def store_fingerprint() -> str | None:
        try:
            return store.fingerprint()
        except Unavailable:
            return None  # the store checks again once it is back

    return model_host(settings, telemetry, load, release, store_fingerprint)


def _settle() -> None:
    """Move a bundle's hundred thousands of objects out of the garbage collector's reach: each full collection would
    stop every request for a tenth of a second, and copy what the supervisor shares with its children. They stay there
    (`gc.unfreeze` would copy, too), so an unloaded bundle must be freed by its reference counts alone."""
    gc.collect()
    gc.freeze()


def _caches(results: ResultCache, host: ModelHost[Runtime]) -> list[Cache[Any, Any]]:
    return [results.cache, *(runtime.artifacts.tower.cache for runtime in host.runtimes)]


def _gauges(
    telemetry: Telemetry,
    host: ModelHost[Runtime],
    store: FeatureStore,
    outboxes: Outboxes,
    feed: ItemFeed,
    results: ResultCache,
) -> None:
    """What is read when metrics are scraped, not when it changes."""
    telemetry.outbox_bytes.labels("events").set(outboxes.events.backlog_bytes)
    telemetry.outbox_bytes.labels("impressions").set(outboxes.impressions.backlog_bytes)
    telemetry.item_features_age.set(feed.age_s)
    telemetry.damaged.set(len(store.damaged()))
    telemetry.cache("results", results.cache)
    telemetry.bundle_bytes.set(sum(host.loaded.values()))
    runtime = host.runtime()
    if runtime is not None:
        telemetry.cache("user_vectors", runtime.artifacts.tower.cache)
