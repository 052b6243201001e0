"""The composition root of a process that is one part of the request path: recall or rank."""

from functools import partial

from starlette.applications import Starlette

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidConfig
from recsys.features.definitions import FEATURES
from recsys.simulation.clock import clock_of
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore
from serving.engine.index_backend import IndexPlace
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.runtime import weigh
from serving.remote.recall_service import RecallPart
from serving.remote.service import NearestCall, RankCall, load_rank_part, part_app, rank
from serving.settings import Role, ServingSettings
from serving.telemetry import Telemetry


def assemble_part(settings: ServingSettings, telemetry: Telemetry) -> Starlette:
    """The application of `settings.role`, recall or rank. Ranking needs neither Redis nor Kafka; recall follows the
    catalogue in Redis, which need not be there yet.

    Raises:
        InvalidConfig: recall without an address of Redis.
    """
    if settings.role is Role.RANK:
        ranks = ModelHost(
            settings.bundles,
            partial(load_rank_part, device=settings.rank_device),
            release=lambda part: None,
            code_fingerprint=FEATURES.fingerprint,
            store_fingerprint=lambda: None,
            telemetry=telemetry,
            weigh=weigh,
            max_bytes=settings.bundle_bytes,
        )
        return part_app(ranks, settings, "/parts/rank", RankCall, rank, ranks.close)
    if not settings.redis_url:
        raise InvalidConfig("set RECSYS_REDIS_URL, or run `recsys up`: recall follows the catalogue there")
    config = StoreConfig(partitions=settings.partitions)
    store = RedisFeatureStore(settings.redis_url, FEATURES, config, settings.redis_namespace)
    return recall_app(settings, telemetry, store)


def recall_app(settings: ServingSettings, telemetry: Telemetry, store: FeatureStore) -> Starlette:
    """The application of the role recall, on any store."""
    feed = ItemFeed(store, clock_of(settings.clock))
    place = IndexPlace.of(settings)

    def load(bundle: Bundle) -> RecallPart:
        part = RecallPart(bundle, place)
        feed.attach(part)
        return part

    host = ModelHost(
        settings.bundles,
        load,
        release=feed.detach,
        code_fingerprint=FEATURES.fingerprint,
        store_fingerprint=lambda: None,
        telemetry=telemetry,
        weigh=weigh,
        max_bytes=settings.bundle_bytes,
    )

    def close() -> None:
        host.close()
        feed.close()
        store.close()

    feed.start()
    return part_app(host, settings, "/parts/nearest", NearestCall, RecallPart.nearest, close)
