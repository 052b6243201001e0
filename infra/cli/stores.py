"""The online store as commands open it."""

from recsys.features.definitions import FEATURES
from recsys.settings import Settings
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore


def feature_store(settings: Settings) -> RedisFeatureStore:
    """Of the settings' namespace, with the shipped features; connects on first use."""
    url, config = settings.redis_url.get_secret_value(), StoreConfig(settings.partitions)
    return RedisFeatureStore(url, FEATURES, config, settings.redis_namespace)
