"""`recsys bench features`: one user's and 500 candidates' features, read for a ranker.

Three layouts in one run, on one Redis that the same events filled:

1. ours: items in process, the user in one round trip, features computed as of now: (500, D) float32;
2. a hash an item, `HGETALL` × 500 in one pipeline: what a feature store's row per entity gives;
3. a JSON document an item, one `MGET`.

They take turns, so each finds the processor's caches as the others have left them; `ours_alone` reads without them.
2 and 3 hold finished item values and read fewer features (nothing of user × item), which flatters them.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.local.redis import RedisServer
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, Topic
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.result import Goal, Result
from recsys.store.base import Batch, StoreConfig
from recsys.store.redis import RedisFeatureStore

_BATCH = 100
_PAGE = 1_000
_WARM_UP = 50


@dataclass(frozen=True)
class FeatureBench:
    """`events` of `users` and `items` fill the store; then `reads` reads of `candidates` items."""

    seed: int = 0
    events: int = 200_000
    users: int = 2_000
    items: int = 20_000
    days: int = 7
    candidates: int = 500
    reads: int = 1_000

    @classmethod
    def quick(cls, seed: int) -> "FeatureBench":
        return cls(seed=seed, events=20_000, users=200, items=4_000, reads=200)


def run(config: FeatureBench) -> Result:
    """Fill, read, compare."""
    world = FeatureFixture.make(config.users, config.items, config.days, config.seed)
    length_ms = config.days * MS_PER_DAY
    now_ms = world.start_ms + length_ms
    with RedisServer() as server:
        store = RedisFeatureStore(server.url, FEATURES, StoreConfig(partitions=1))
        fill(store, world.log(config.events, world.start_ms, length_ms))
        columns = ItemColumns(world.items, FEATURES)
        load_s = _seconds(lambda: columns.load(store.all_items()))
        refresh_s = _seconds(lambda: columns.refresh(now_ms))
        state = next(iter(store.all_items()))
        update_us = 1e6 * _median([_seconds(lambda: columns.update(*state)) for _ in range(200)])
        client = redis.Redis.from_url(server.url, protocol=2)  # as ours: the client reads it quicker
        rng = np.random.default_rng(config.seed)
        reads = _Reads(store, columns, world, client, config.candidates, now_ms, rng)
        reads.write_rows()
        kinds: list[Read] = [reads.ours, reads.hashes, reads.documents]
        ours, hashes, documents = _interleaved(reads, kinds, config.reads)
        [alone] = _interleaved(reads, [reads.ours], config.reads)
        [assembly] = _interleaved(reads, [lambda _, rows: reads.assembly(rows, now_ms)], config.reads)
        cells = [len(store.user(u.user_id).cells) for u in world.users[::20]]
        rows = reads.request()[1]
        boundary_ms = 1e3 * _seconds(lambda: reads.assembly(rows, now_ms + 5 * MS_PER_MINUTE))
        store.close()
        client.close()
    figures = {
        "ours_p50_ms": 1e3 * _median(ours),
        "ours_p99_ms": 1e3 * float(np.percentile(ours, 99)),
        "ours_alone_p50_ms": 1e3 * _median(alone),
        "assembly_p50_ms": 1e3 * _median(assembly),
        "first_after_a_tile_ends_ms": boundary_ms,
        "hgetall_p50_ms": 1e3 * _median(hashes),
        "hgetall_p99_ms": 1e3 * float(np.percentile(hashes, 99)),
        "json_mget_p50_ms": 1e3 * _median(documents),
        "json_mget_p99_ms": 1e3 * float(np.percentile(documents, 99)),
        "hgetall_times_slower": _median(hashes) / _median(ours),
        "json_mget_times_slower": _median(documents) / _median(ours),
        "cells_of_a_user_p50": _median(list(map(float, cells))),
        "columns": FEATURES.dimension,
        "load_items_per_s": config.items / load_s,
        "refresh_items_per_s": config.items / refresh_s,
        "update_item_us": update_us,
    }
    goals = {
        "ours_p50_ms": Goal("<=", 1.0),
        "hgetall_times_slower": Goal(">", 1.0),
        "json_mget_times_slower": Goal(">", 1.0),
    }
    return Result("bench features", config.seed, figures, goals)


class _Reads:
    """The three layouts, each a method that reads what a ranker needs."""

    def __init__(
        self,
        store: RedisFeatureStore,
        columns: ItemColumns,
        world: FeatureFixture,
        client: "redis.Redis",
        candidates: int,
        now_ms: int,
        rng: np.random.Generator,
    ) -> None:
        self._store, self._columns, self._world, self._client = store, columns, world, client
        self._candidates, self._now, self._rng = candidates, now_ms, rng
        self._names = [FEATURES.names[c] for c in columns.columns]
        self._fields = [name.encode() for name in self._names]
        self._user = store.user(world.users[len(world.users) // 4].user_id)

    def write_rows(self) -> None:
        """The finished item values, as a hash and as a document an item."""
        n = len(self._world.items)
        for start in range(0, n, _PAGE):
            rows = np.arange(start, min(start + _PAGE, n), dtype=np.int32)
            with self._client.pipeline(transaction=False) as pipe:
                for row, values in zip(
                    rows.tolist(), self._columns.values(rows, self._now).tolist(), strict=True
                ):
                    named = dict(zip(self._names, values, strict=True))
                    pipe.hset(f"bench:h:{row}", mapping={k: repr(v) for k, v in named.items()})
                    pipe.set(f"bench:j:{row}", orjson.dumps(named))
                pipe.execute()

    def ours(self, user: str, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self._assemble(self._store.user(user), rows, self._now)

    def assembly(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        """Without the round trip."""
        return self._assemble(self._user, rows, now_ms)

    def _assemble(self, state: EntityState, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        return assemble(FEATURES, state, {"age": "30"}, self._columns, rows, now_ms, {"tab": "1"})

    def hashes(self, user: str, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"recsys:{{0}}:u:{user}")
            for row in rows.tolist():
                pipe.hgetall(f"bench:h:{row}")
            _, *found = pipe.execute()
        return np.array([[float(item[f]) for f in self._fields] for item in found], np.float32)

    def documents(self, user: str, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"recsys:{{0}}:u:{user}")
            pipe.mget([f"bench:j:{row}" for row in rows.tolist()])
            _, found = pipe.execute()
        items = map(orjson.loads, found)
        return np.array([[item[name] for name in self._names] for item in items], np.float32)

    def request(self) -> tuple[str, NDArray[np.int32]]:
        """A user and candidates at random; drawing them takes a part of a read's time, and is no part of it."""
        user = self._world.users[int(len(self._world.users) * self._rng.random() ** 2)].user_id
        rows = self._rng.choice(len(self._world.items), self._candidates, replace=False)
        return user, rows.astype(np.int32)


Read = Callable[[str, NDArray[np.int32]], object]


def _interleaved(reads: "_Reads", kinds: list[Read], n: int) -> list[list[float]]:
    """Seconds of each read of each kind, in turns, so that all see the same machine; after a warm-up."""
    seconds: list[list[float]] = [[] for _ in kinds]
    for _ in range(n + _WARM_UP):
        for taken, read in zip(seconds, kinds, strict=True):
            user, rows = reads.request()
            taken.append(_seconds(partial(read, user, rows)))
    return [taken[_WARM_UP:] for taken in seconds]


def fill(store: RedisFeatureStore, events: list[Event], partitions: int = 1) -> None:
    """Apply the events as workers do, each partition's in their order."""
    by_partition: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        by_partition[partition_of(event.user_id, partitions)].append(event)
    for partition, own in sorted(by_partition.items()):
        claim = store.claim(Topic.EVENTS, partition, "bench")
        watermark = 0
        for start in range(0, len(own), _BATCH):
            part = own[start : start + _BATCH]
            end = start + len(part)
            watermark = max(watermark, *(e.event_time_ms for e in part))
            store.apply(
                Batch(Topic.EVENTS, partition, claim.epoch, start, end, watermark, range(start, end), part)
            )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _median(values: list[float]) -> float:
    return float(np.median(values))
