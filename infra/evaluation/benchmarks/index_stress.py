"""Searches beside changes: are all of them answered, and answered right?

One thread adds, replaces and removes items at a given rate; others search for items that they know. A result is
checked against what was true during the whole search: of items that were changing meanwhile nothing is claimed.
"""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.recall.ann import IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.live_index import LiveIndex

Floats = NDArray[np.float32]

_STEP_S = 0.01  # between changes; each takes what has come by then, as a reader of a queue would
_MOST = 500  # items a change
_TOLERANCE = 1e-4  # of a score


@dataclass(frozen=True)
class StressConfig:
    """How much of what for how long."""

    items: int = 100_000
    dimension: int = 64
    per_second: int = 1_000  # items added, replaced or removed
    seconds: float = 20.0
    searchers: int = 2
    k: int = 50
    rebuild_at: int = 5_000
    kind: Kind = Kind.IVF_SQ8
    seed: int = 0


@dataclass
class _World:
    """What is true. A row's entries are settled when its last change ended after it began.

    began, ended: seconds of each row's last change. alive: after it. vectors: of living rows.
    """

    vectors: Floats
    alive: NDArray[np.bool_]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    stop: threading.Event = field(default_factory=threading.Event)
    changes: int = 0

    def settled(self, rows: NDArray[np.int32], since: float) -> NDArray[np.bool_]:
        """(n,) bool: nothing has happened to these rows from `since` until now."""
        ended = self.ended[rows]
        result: NDArray[np.bool_] = (ended < since) & (self.began[rows] <= ended)
        return result


@dataclass
class _Tally:
    failed: int = 0
    wrong: int = 0
    checked: int = 0
    ms: list[float] = field(default_factory=list)
    first_error: str = ""


def stress(config: StressConfig) -> dict[str, float]:
    """Figures by name."""
    random = np.random.default_rng(config.seed)
    capacity = 2 * config.items
    vectors = random.standard_normal((capacity, config.dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    zeros = np.zeros(capacity)
    world = _World(vectors, np.arange(capacity) < config.items, zeros, zeros.copy())
    index = LiveIndex.build(
        vectors[: config.items].copy(), config=IndexConfig(config.kind), rebuild_at=config.rebuild_at
    )
    tallies = [_Tally() for _ in range(config.searchers)]
    threads = [
        threading.Thread(target=_search, args=(config, index, world, tally, config.seed + 1 + i))
        for i, tally in enumerate(tallies)
    ]
    writer = threading.Thread(target=_change, args=(config, index, world))
    began = time.perf_counter()
    for thread in (*threads, writer):
        thread.start()
    time.sleep(config.seconds)
    world.stop.set()
    for thread in (*threads, writer):
        thread.join()
    took = time.perf_counter() - began
    index.close()
    ms = np.array([value for tally in tallies for value in tally.ms] or [np.nan])
    return {
        "items_changed_per_s": world.changes / took,
        "searches": float(len(ms)),
        "checked_results": float(sum(tally.checked for tally in tallies)),
        "failed_searches": float(sum(tally.failed for tally in tallies)),
        "wrong_searches": float(sum(tally.wrong for tally in tallies)),
        "rebuilds": float(index.rebuilds),
        "search_p50_ms": float(np.percentile(ms, 50)),
        "search_p99_ms": float(np.percentile(ms, 99)),
    }


def _change(config: StressConfig, index: LiveIndex, world: _World) -> None:
    """Alternately add, remove and replace, at the rate wanted."""
    random = np.random.default_rng(config.seed + 1000)
    began = time.perf_counter()
    step = 0
    while not world.stop.wait(_STEP_S):
        due = int((time.perf_counter() - began) * config.per_second) - world.changes
        pool = np.flatnonzero(~world.alive if step % 3 == 0 else world.alive)
        rows = random.choice(pool, min(max(due, 1), _MOST, len(pool)), replace=False).astype(np.int32)
        world.began[rows] = time.perf_counter()
        if step % 3 == 1:
            index.remove(rows)
            world.alive[rows] = False
        else:
            new = random.standard_normal((len(rows), config.dimension), np.float32)
            new /= np.linalg.norm(new, axis=1, keepdims=True)
            index.upsert(rows, new)
            world.vectors[rows] = new
            world.alive[rows] = True
        world.ended[rows] = time.perf_counter()
        world.changes += len(rows)
        step += 1


def _search(config: StressConfig, index: LiveIndex, world: _World, tally: _Tally, seed: int) -> None:
    random = np.random.default_rng(seed)
    while not world.stop.is_set():
        target = random.integers(0, len(world.alive), 1).astype(np.int32)
        query = world.vectors[target].copy()
        began = time.perf_counter()
        if not world.alive[target[0]] or not world.settled(target, began)[0]:
            continue
        try:
            found = index.search(query, config.k)
        except Exception as error:
            tally.failed += 1
            tally.first_error = tally.first_error or repr(error)
            continue
        tally.ms.append((time.perf_counter() - began) * 1e3)
        rows, scores = found.rows[0], found.scores[0]
        is_wrong = (
            len(rows) != config.k
            or len(np.unique(rows)) != len(rows)
            or (np.diff(scores) > 0).any()
            or (target[0] not in rows and world.settled(target, began)[0])
        )
        exact = world.vectors[rows] @ query[0]
        dead = ~world.alive[rows]
        known = world.settled(rows, began)  # asked last: what was read above was true all along
        is_wrong |= bool((dead & known).any() or (np.abs(exact - scores)[known] > _TOLERANCE).any())
        tally.checked += int(known.sum())
        tally.wrong += int(is_wrong)
