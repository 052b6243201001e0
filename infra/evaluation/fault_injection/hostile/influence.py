"""One client that wants to weigh more than a user does, or to fill the store with ids that do not exist."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import redis

from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken
from infra.local.redis import RedisServer
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType, Item, Topic
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.popular import popularity
from recsys.store.base import Batch, StoreConfig
from recsys.store.redis import RedisFeatureStore

_BATCH = 1_000
_NOON_MS = 20_000 * MS_PER_DAY + MS_PER_DAY // 2
_CLICKS = 10_000
_IDS = 30_000
_MOST = 2_000  # users, and items, that the attacked store may hold
_BYTES = 4_000  # of one user's and one item's state, their places in the lists and their keys


def one_user_clicks(folder: Path, clicks: int = _CLICKS) -> str:
    """Order of three items: many clicks of one user, clicks of as many users, clicks of two users."""
    events = [_click(f"a{i}", "attacker", "pushed", i) for i in range(clicks)]
    events += [_click(f"u{i}", f"user-{i}", "liked", i) for i in range(clicks)]
    events += [_click(f"t{i}", f"two-{i}", "two", i) for i in range(2)]
    items = [Item(item_id) for item_id in ("pushed", "liked", "two")]
    with _store(folder, StoreConfig(partitions=1)) as (store, _):
        _apply(store, events)
        columns, catalogue = ItemColumns(items, FEATURES), Catalogue(items)
        columns.load(store.all_items())
    none = popularity(np.empty(0, np.int32), np.empty(0, np.float32), catalogue)
    order = Trending(FEATURES, columns, catalogue, none).refresh(_NOON_MS + MS_PER_DAY // 4).rows
    found = catalogue.ids(order.tolist())
    if found != ["liked", "two", "pushed"]:
        raise Broken(f"the popular items are, best first, {', '.join(found)}")
    return f"{clicks} clicks of one user are behind those of two users; {clicks} users are first"


def made_up_ids(folder: Path, ids: int = _IDS) -> str:
    """Events of users and items that do not exist, one each."""
    config = StoreConfig(partitions=1, max_users=_MOST, max_items=_MOST)
    with _store(folder, config) as (store, client):
        before = client.info("memory")["used_memory"]
        _apply(store, (_click(f"m{i}", f"user-{i}", f"item-{i}", i) for i in range(ids)))
        later_ms = _NOON_MS + 3 * MS_PER_DAY  # the event ids of the attack are forgotten
        _apply(store, [Event("end", EventType.CLICK, "user", "item", later_ms)], offset=ids)
        users, items = sum(1 for _ in store.user_ids()), sum(1 for _ in store.all_items())
        used = client.info("memory")["used_memory"] - before
        lasting = sum(client.ttl(key) < 0 for key in client.scan_iter("recsys:{0}:[uih]:*", count=1_000))
    if max(users, items) > _MOST or lasting or used > _MOST * _BYTES:
        raise Broken(f"{users} users and {items} items stay, {lasting} keys for ever; {used / 1e6:.1f} MB")
    return (
        f"{ids} made-up users and items leave {users} and {items}, all of which expire; {used / 1e6:.1f} MB"
    )


@contextmanager
def _store(folder: Path, config: StoreConfig) -> Iterator[tuple[RedisFeatureStore, redis.Redis]]:
    with (
        RedisServer(folder) as server,
        closing(RedisFeatureStore(server.url, FEATURES, config)) as store,
        closing(redis.Redis.from_url(server.url)) as client,
    ):
        yield store, client


def _apply(store: RedisFeatureStore, events: Iterable[Event], offset: int = 0) -> None:
    epoch = store.claim(Topic.EVENTS, 0, "log").epoch
    remaining = iter(events)
    while batch := list(islice(remaining, _BATCH)):
        offsets = range(offset, offset := offset + len(batch))
        newest_ms = max(event.event_time_ms for event in batch)
        store.apply(Batch(Topic.EVENTS, 0, epoch, offsets.start, offset, newest_ms, offsets, batch))


def _click(event_id: str, user_id: str, item_id: str, second: int) -> Event:
    return Event(event_id, EventType.CLICK, user_id, item_id, _NOON_MS + second % 3_600 * 1_000)


ATTACKS = (
    Attack(
        "security",
        "10,000 clicks of one user on one item",
        "the item was first in the popular list for everybody",
        one_user_clicks,
    ),
    Attack(
        "security",
        "events of 30,000 made-up users and items",
        "their ids stayed in Redis for ever, their states for 400 days",
        made_up_ids,
    ),
)
