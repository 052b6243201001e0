"""Predict how much Redis a system needs, from a sample that is really stored.

A share of the users and items is folded into a private Redis by the store's own code, so the prediction follows the
feature definitions, the key layout and the server's encodings. Activity of users and popularity of items are
log-normal and spread evenly over their distribution, so a sample's mean is the population's.
"""

import math
import random
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import redis

from infra.evaluation.load.stored import fill
from infra.evaluation.load.traffic import synthetic_items
from infra.local.redis import RedisServer
from recsys.contracts.events import Event, derived_id, item_context
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.encoding import event_key
from recsys.store.redis import RedisFeatureStore

SAMPLE_USERS = 500
_WIDE_ITEMS = 20_000  # more than any user's histories hold
_BATCH = 100  # as the worker
_END_MS = 1_700_000_000_000
_ACTIVITY_SIGMA = 1.0
_POPULARITY_SIGMA = 1.5
_MIX = {
    EventType.IMPRESSION: 0.75,
    EventType.CLICK: 0.14,
    EventType.DWELL: 0.07,
    EventType.LIKE: 0.02,
    EventType.PURCHASE: 0.02,
}
_PARTS = {"u": "users", "h": "users", "i": "items", "items": "items", "d": "event_ids", "changed": "changes"}


@dataclass(frozen=True)
class Population:
    """`events_per_user`: the mean over the last `days` days, impressions included."""

    users: int
    items: int
    events_per_user: int = 100
    days: int = 30
    seed: int = 0

    def sample(self, users: int) -> "Population":
        """A smaller population with the same events per user and per item."""
        share = min(1.0, users / self.users)
        size = max(1, round(self.users * share)), max(1, round(self.items * share))
        return replace(self, users=size[0], items=size[1])


@dataclass(frozen=True)
class Size:
    """Bytes of Redis memory."""

    users: float
    items: float
    event_ids: float
    changes: float

    @property
    def total(self) -> float:
        return self.users + self.items + self.event_ids + self.changes


def predict(population: Population, config: StoreConfig, sample_users: int = SAMPLE_USERS) -> Size:
    """Predict the size of the whole population's state from samples of `sample_users`.

    Users and items need one sample each. An item's state grows with its events, so the items' sample keeps the events
    per item; but it then has so few items that its users meet the same ones repeatedly and remember too little.
    """
    sample = population.sample(sample_users)
    found = measure(sample, config)
    wide = replace(sample, items=max(sample.items, min(population.items, _WIDE_ITEMS)))
    users = measure(wide, config).users if wide.items > sample.items else found.users
    ids = (
        population.users
        * population.events_per_user
        * min(1.0, config.dedupe_ms / population.days / MS_PER_DAY)
    )
    ids_per_bucket = ids * config.dedupe_bucket_ms / config.dedupe_ms / config.partitions
    return Size(
        users=users * population.users / sample.users,
        items=found.items * population.items / sample.items,
        event_ids=ids * _bytes_per_event_id(ids_per_bucket),
        changes=found.changes * _change_entries(population, config) / _change_entries(sample, config),
    )


def measure(population: Population, config: StoreConfig) -> Size:
    """Store the population in a private Redis and measure it."""
    with RedisServer() as server, closing(_client(server)) as client:
        with suppress(redis.ResponseError):  # before version 7
            # a histogram of 25 kB for each command ever used would weigh as much as a hundred users
            client.config_set("latency-tracking", "no")
        empty = _used(client)
        with closing(RedisFeatureStore(server.url, FEATURES, config)) as store:
            fill(store, _events(population), config.partitions)
        whole = _used(client) - empty
        parts = dict.fromkeys(("users", "items", "event_ids", "changes"), 0.0)
        for key in client.scan_iter(count=1_000):
            kind = _PARTS.get(key.decode().split(":", 3)[2]) if key.count(b":") > 1 else None
            if kind:
                parts[kind] += client.memory_usage(key, samples=0)
    scale = whole / sum(parts.values())  # for the table of keys, and fragmentation
    return Size(**{name: size * scale for name, size in parts.items()})


def _client(server: RedisServer) -> Any:
    return redis.Redis.from_url(server.url)


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory_dataset"])


def _bytes_per_event_id(per_bucket: float) -> float:
    """Measure a set of the size that matters: Redis packs small ones."""
    ids = max(1, min(20_000, round(per_bucket)))
    with RedisServer() as server, closing(_client(server)) as client:
        client.sadd("bucket", *(event_key("user", str(n)) for n in range(ids)))
        return float(client.memory_usage("bucket", samples=0)) / ids


def _change_entries(population: Population, config: StoreConfig) -> float:
    """Entries of all change streams together."""
    batches = population.users * population.events_per_user / _BATCH
    return min(batches + config.partitions / 2, config.partitions * config.changes)


def _spread(n: int, sigma: float, rng: random.Random) -> list[float]:
    """Log-normal values with mean 1, one from each n-th of the distribution: a free draw of twenty users is often half
    as active again as the population."""
    values = [math.exp(sigma * NormalDist().inv_cdf((i + 0.5) / n)) for i in range(n)]
    rng.shuffle(values)
    mean = sum(values) / n
    return [value / mean for value in values]


def _events(population: Population) -> Iterator[Event]:
    """Events of all users in the order of time."""
    rng = random.Random(population.seed)  # noqa: S311
    items = synthetic_items(population.items, population.seed)
    popularity = _spread(len(items), _POPULARITY_SIGMA, rng)
    plan = []
    for user, activity in enumerate(_spread(population.users, _ACTIVITY_SIGMA, rng)):
        count = round(population.events_per_user * activity)
        plan += [(_END_MS - rng.randrange(population.days * MS_PER_DAY), user) for _ in range(count)]
    plan.sort()
    shown = rng.choices(items, popularity, k=len(plan))
    kinds = rng.choices(list(_MIX), list(_MIX.values()), k=len(plan))
    for n, ((time_ms, user), item, kind) in enumerate(zip(plan, shown, kinds, strict=True)):
        yield Event(
            event_id=derived_id(time_ms, population.seed, n),
            type=kind,
            user_id=f"user-{user:08}",
            item_id=item.item_id,
            event_time_ms=time_ms,
            value=8_000.0,
            context=item_context({}, item.categories, item.creator),
        )
