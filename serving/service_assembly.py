"""The composition root of a recall or ranking service."""

from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidConfig
from recsys.features.definitions import FEATURES
from recsys.native import serves
from recsys.signatures import read_public_keys
from recsys.simulation.clock import clock_of
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore
from serving.engine.artifacts import estimated_bytes
from serving.engine.index_backend import IndexPlace
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.remote.messages import NEAREST, RANK, NearestCall, RankCall
from serving.remote.recall_service import RecallService
from serving.remote.service import RankService, S, service_app
from serving.settings import Role, ServingSettings
from serving.telemetry import Telemetry


def assemble_service(settings: ServingSettings, telemetry: Telemetry) -> Starlette:
    """The application of `settings.role`, recall or rank. Ranking needs neither Redis nor Kafka; recall follows the
    catalogue in Redis, which need not be there yet.
    Raises `InvalidConfig`: recall without an address of Redis."""
    if settings.role is Role.RANK:
        load = partial(RankService, device=settings.rank_device, native=serves(settings.native))
        host = model_host(settings, telemetry, load, release=lambda service: None)
        return service_app(host, settings, RANK, RankCall, RankService.rank, host.close)
    if not settings.redis_url:
        raise InvalidConfig("set RECSYS_REDIS_URL, or run `recsys up`: recall follows the catalogue there")
    config = StoreConfig(partitions=settings.partitions)
    store = RedisFeatureStore(
        settings.redis_url.get_secret_value(), FEATURES, config, settings.redis_namespace
    )
    return recall_app(settings, telemetry, store)


def recall_app(settings: ServingSettings, telemetry: Telemetry, store: FeatureStore) -> Starlette:
    """The application of the role recall, on any store."""
    feed = ItemFeed(store, clock_of(settings.clock))
    place, native = IndexPlace.of(settings), serves(settings.native)

    def load(bundle: Bundle) -> RecallService:
        service = RecallService(bundle, place, native)
        feed.attach(service.live)
        return service

    host = model_host(settings, telemetry, load, release=lambda service: feed.detach(service.live))

    def close() -> None:
        host.close()
        feed.close()
        store.close()

    feed.start()
    return service_app(host, settings, NEAREST, NearestCall, RecallService.nearest, close)


def model_host(
    settings: ServingSettings,
    telemetry: Telemetry,
    load: Callable[[Bundle], S],
    release: Callable[[S], None],
    store_fingerprint: Callable[[], str | None] = lambda: None,
) -> ModelHost[S]:
    """Raises `InvalidConfig`: the file of public keys is damaged now; later it refuses new bundles."""
    read_public_keys(settings.bundle_keys)
    return ModelHost(
        settings.bundles,
        load,
        release,
        code_fingerprint=FEATURES.fingerprint,
        store_fingerprint=store_fingerprint,
        telemetry=telemetry,
        weigh=estimated_bytes,
        max_bytes=settings.bundle_bytes,
        keys=lambda: read_public_keys(settings.bundle_keys),
    )
