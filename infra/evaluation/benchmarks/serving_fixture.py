"""The catalogue of the serving benchmark and its users' history: seeded, written straight into the online store."""

import time
from collections.abc import Sequence

import numpy as np

from infra.evaluation.load.stored import fill
from infra.evaluation.load.traffic import zipf
from recsys.contracts.events import Event, item_context
from recsys.contracts.types import MS_PER_DAY, EventType, Item
from recsys.store.base import FeatureStore

CATEGORIES, CREATORS = 32, 2_000
_MIX = (EventType.IMPRESSION, EventType.CLICK, EventType.LIKE)
_SHARES = (0.6, 0.3, 0.1)
HISTORY_TOPIC = "history"  # of its own: the worker starts at the beginning of the real ones


def bench_items(n: int, seed: int) -> list[Item]:
    """Make items, sorted by id; one to three categories each, created over the last 90 days."""
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
    found = []
    for i in range(events):
        shown, user_id = items[item[i]], f"user-{user[i]}"
        context = item_context({}, shown.categories, shown.creator)
        kind_i, time_ms = _MIX[kind[i]], int(times[i])
        found.append(Event(f"past-{i}", kind_i, user_id, shown.item_id, time_ms, context=context))
    fill(store, found, partitions, HISTORY_TOPIC)
