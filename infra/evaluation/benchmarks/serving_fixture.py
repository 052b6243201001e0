"""The bench's catalogue, users and their past: made from a seed, written straight into the online store."""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from infra.evaluation.load.traffic import zipf
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import CATEGORIES as CATEGORIES_KEY
from recsys.contracts.events import CATEGORY_SEPARATOR, CREATOR, Event
from recsys.contracts.types import MS_PER_DAY, EventType, Item
from recsys.store.base import Batch, FeatureStore

CATEGORIES, CREATORS = 32, 2_000
_MIX = (EventType.IMPRESSION, EventType.CLICK, EventType.LIKE)
_SHARES = (0.6, 0.3, 0.1)
_BATCH = 100  # events a script call


def bench_items(n: int, seed: int) -> list[Item]:
    """Sorted by id; one to three categories each, created over the last 90 days."""
    rng = np.random.default_rng(seed)
    now_ms = time.time_ns() // 1_000_000
    first = rng.integers(0, CATEGORIES, n)
    more = rng.integers(0, CATEGORIES, (n, 2))
    count = rng.integers(0, 3, n)
    creators = rng.integers(0, CREATORS, n)
    ages = rng.uniform(0, 90 * MS_PER_DAY, n).astype(np.int64)
    return [
        Item(
            f"item-{i:07d}",
            f"Item {i}",
            tuple(dict.fromkeys(f"category-{c}" for c in (first[i], *more[i, : count[i]]))),
            f"creator-{creators[i]}",
            int(now_ms - ages[i]),
        )
        for i in range(n)
    ]


def write_history(
    store: FeatureStore, items: Sequence[Item], users: int, events: int, partitions: int, seed: int
) -> None:
    """Apply `events` of the last half hour to the store, users and items by Zipf's law (exponent 1)."""
    rng = np.random.default_rng(seed)
    user = rng.choice(users, events, p=zipf(users, 1.0))
    item = rng.choice(len(items), events, p=zipf(len(items), 1.0))
    kind = rng.choice(len(_MIX), events, p=_SHARES)
    now_ms = time.time_ns() // 1_000_000
    times = now_ms - np.sort(rng.integers(1_000, 30 * 60 * 1_000, events))[::-1]
    by_partition: dict[int, list[Event]] = defaultdict(list)
    for i in range(events):
        shown, user_id = items[item[i]], f"user-{user[i]}"
        context = {CATEGORIES_KEY: CATEGORY_SEPARATOR.join(shown.categories), CREATOR: shown.creator}
        event = Event(f"past-{i}", _MIX[kind[i]], user_id, shown.item_id, int(times[i]), context=context)
        by_partition[partition_of(user_id, partitions)].append(event)
    for partition, past in by_partition.items():
        epoch = store.claim("past", partition, "past").epoch
        for start in range(0, len(past), _BATCH):
            batch = past[start : start + _BATCH]
            offsets = range(start, start + len(batch))
            store.apply(
                Batch("past", partition, epoch, start, offsets.stop, batch[-1].event_time_ms, offsets, batch)
            )
