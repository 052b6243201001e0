"""`recsys bench features`: read the features of one user and 500 candidates for a ranker.

Three layouts in one run, on one Redis that the same events filled:

1. ours: items in process, the user in one round trip, features computed as of now: (500, D) float32;
2. a hash per item, `HGETALL` × 500 in one pipeline: what a feature store's row per entity gives;
3. a JSON document per item, one `MGET`.

They take turns, so each finds the processor's caches as the others left them; `ours_alone` reads without the others.
2 and 3 hold finished item values and read fewer features (no user × item ones), which favours them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.evaluation.load.stored import fill
from infra.evaluation.timing import percentiles_ms, seconds, take_turns
from infra.local.redis import RedisServer
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.result import Goal, Result
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore

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
    fixture = FeatureFixture.make(config.users, config.items, config.days, config.seed)
    length_ms = config.days * MS_PER_DAY
    now_ms = fixture.start_ms + length_ms
    with RedisServer() as server:
        store = RedisFeatureStore(server.url, FEATURES, StoreConfig(partitions=1))
        fill(store, fixture.log(config.events, fixture.start_ms, length_ms))
        columns = ItemColumns(fixture.items, FEATURES)
        load_s = seconds(lambda: columns.load(store.all_items()))
        refresh_s = seconds(lambda: columns.refresh(now_ms))
        state = next(iter(store.all_items()))
        update_us = 1e6 * float(np.median([seconds(lambda: columns.update(*state)) for _ in range(200)]))
        client = redis.Redis.from_url(server.url, protocol=2)  # as our store: this client parses it faster
        rng = np.random.default_rng(config.seed)
        reads = _Reads(store, columns, fixture, client, config.candidates, now_ms, rng)
        reads.write_rows()
        times = {
            **reads.times(config.reads, ours=reads.ours, hgetall=reads.hashes, json_mget=reads.documents),
            **reads.times(config.reads, ours_alone=reads.ours),
            **reads.times(config.reads, assembly=lambda _, rows: reads.assembly(rows, now_ms)),
        }
        cells = [len(store.user(u.user_id).cells) for u in fixture.users[::20]]
        rows = reads.request()[1]
        boundary_ms = 1e3 * seconds(lambda: reads.assembly(rows, now_ms + 5 * MS_PER_MINUTE))
        store.close()
        client.close()
    figures = {
        **percentiles_ms("ours", times["ours"]),
        **percentiles_ms("ours_alone", times["ours_alone"], [50]),
        **percentiles_ms("assembly", times["assembly"], [50]),
        "first_after_a_tile_ends_ms": boundary_ms,
        **percentiles_ms("hgetall", times["hgetall"]),
        **percentiles_ms("json_mget", times["json_mget"]),
        "cells_of_a_user_p50": float(np.median(cells)),
        "columns": FEATURES.dimension,
        "load_items_per_s": config.items / load_s,
        "refresh_items_per_s": config.items / refresh_s,
        "update_item_us": update_us,
    }
    for layout in ("hgetall", "json_mget"):
        figures[f"{layout}_times_slower"] = figures[f"{layout}_p50_ms"] / figures["ours_p50_ms"]
    goals = {
        "ours_p50_ms": Goal("<=", 1.0),
        "hgetall_times_slower": Goal(">", 1.0),
        "json_mget_times_slower": Goal(">", 1.0),
    }
    return Result("bench features", config.seed, figures, goals)


Read = Callable[[str, NDArray[np.int32]], object]


class _Reads:
    """The three layouts, each a method that reads what a ranker needs."""

    def __init__(
        self,
        store: RedisFeatureStore,
        columns: ItemColumns,
        fixture: FeatureFixture,
        client: redis.Redis,
        candidates: int,
        now_ms: int,
        rng: np.random.Generator,
    ) -> None:
        self._store, self._columns, self._fixture, self._client = store, columns, fixture, client
        self._candidates, self._now, self._rng = candidates, now_ms, rng
        self._names = [FEATURES.names[c] for c in columns.columns]
        self._fields = [name.encode() for name in self._names]
        self._user = store.user(fixture.users[len(fixture.users) // 4].user_id)

    def write_rows(self) -> None:
        """Store the finished item values, as a hash and as a document per item."""
        n = len(self._fixture.items)
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
        """Draw a user and candidates; not part of a read's time."""
        user = self._fixture.users[int(len(self._fixture.users) * self._rng.random() ** 2)].user_id
        rows = self._rng.choice(len(self._fixture.items), self._candidates, replace=False)
        return user, rows.astype(np.int32)

    def times(self, n: int, **kinds: Read) -> dict[str, list[float]]:
        """Milliseconds of `n` reads of each kind."""
        requests = {name: [self.request() for _ in range(n + _WARM_UP)] for name in kinds}

        def form(name: str) -> Callable[[], object]:
            waiting = iter(requests[name])
            return lambda: kinds[name](*next(waiting))

        taken = take_turns({name: form(name) for name in kinds}, n, _WARM_UP)
        return {name: [1e3 * s for s in each] for name, each in taken.items()}
