"""Search an index while it changes: is every search answered, and answered right?

One thread adds, replaces and removes items at a given rate; others search for items that they know. A result is
checked against what was true during the whole search; items that changed meanwhile are not judged.
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

_STEP_S = 0.01  # between changes; each takes all that is due, as a reader of a queue would
_MOST = 500  # items per change
_TOLERANCE = 1e-4  # of a score


@dataclass(frozen=True)
class StressConfig:
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
class _Truth:
    """The true state. `began`, `ended`: when each row's last change did; `alive`: after it; `vectors`: of live rows."""

    vectors: Floats
    alive: NDArray[np.bool_]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    stop: threading.Event = field(default_factory=threading.Event)
    changes: int = 0

    def settled(self, rows: NDArray[np.int32], since: float) -> NDArray[np.bool_]:
        """(n,) bool: these rows have not changed since then."""
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
    """Run both sides and count; figures by name."""
    random = np.random.default_rng(config.seed)
    capacity = 2 * config.items
    vectors = random.standard_normal((capacity, config.dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    zeros = np.zeros(capacity)
    truth = _Truth(vectors, np.arange(capacity) < config.items, zeros, zeros.copy())
    index = LiveIndex.build(
        vectors[: config.items].copy(), config=IndexConfig(config.kind), rebuild_at=config.rebuild_at
    )
    tallies = [_Tally() for _ in range(config.searchers)]
    threads = [
        threading.Thread(target=_search, args=(config, index, truth, tally, config.seed + 1 + i))
        for i, tally in enumerate(tallies)
    ]
    writer = threading.Thread(target=_change, args=(config, index, truth))
    began = time.perf_counter()
    for thread in (*threads, writer):
        thread.start()
    time.sleep(config.seconds)
    truth.stop.set()
    for thread in (*threads, writer):
        thread.join()
    took = time.perf_counter() - began
    index.close()
    ms = np.array([value for tally in tallies for value in tally.ms] or [np.nan])
    return {
        "items_changed_per_s": truth.changes / took,
        "searches": float(len(ms)),
        "checked_results": float(sum(tally.checked for tally in tallies)),
        "failed_searches": float(sum(tally.failed for tally in tallies)),
        "wrong_searches": float(sum(tally.wrong for tally in tallies)),
        "rebuilds": float(index.rebuilds),
        "search_p50_ms": float(np.percentile(ms, 50)),
        "search_p99_ms": float(np.percentile(ms, 99)),
    }


def _change(config: StressConfig, index: LiveIndex, truth: _Truth) -> None:
    """Add, remove and replace in turn, at the configured rate."""
    random = np.random.default_rng(config.seed + 1000)
    began = time.perf_counter()
    step = 0
    while not truth.stop.wait(_STEP_S):
        due = int((time.perf_counter() - began) * config.per_second) - truth.changes
        pool = np.flatnonzero(~truth.alive if step % 3 == 0 else truth.alive)
        rows = random.choice(pool, min(max(due, 1), _MOST, len(pool)), replace=False).astype(np.int32)
        truth.began[rows] = time.perf_counter()
        if step % 3 == 1:
            index.remove(rows)
            truth.alive[rows] = False
        else:
            new = random.standard_normal((len(rows), config.dimension), np.float32)
            new /= np.linalg.norm(new, axis=1, keepdims=True)
            index.upsert(rows, new)
            truth.vectors[rows] = new
            truth.alive[rows] = True
        truth.ended[rows] = time.perf_counter()
        truth.changes += len(rows)
        step += 1


def _search(config: StressConfig, index: LiveIndex, truth: _Truth, tally: _Tally, seed: int) -> None:
    random = np.random.default_rng(seed)
    while not truth.stop.is_set():
        target = random.integers(0, len(truth.alive), 1).astype(np.int32)
        began = time.perf_counter()  # before the query is read: a target replaced in between is not settled
        query = truth.vectors[target].copy()
        if not truth.alive[target[0]] or not truth.settled(target, began)[0]:
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
            or (target[0] not in rows and truth.settled(target, began)[0])
        )
        exact = truth.vectors[rows] @ query[0]
        dead = ~truth.alive[rows]
        known = truth.settled(rows, began)  # asked last: what was read above was true all along
        is_wrong |= bool((dead & known).any() or (np.abs(exact - scores)[known] > _TOLERANCE).any())
        tally.checked += int(known.sum())
        tally.wrong += int(is_wrong)
