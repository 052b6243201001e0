"""`recsys bench caches`: misses of SIEVE, which serves, and of S3-FIFO and the optimum, against LRU at equal bytes.

Sequences: Zipf's law with two exponents and, from a lake, the impressions in their order: of *lists* by user, made
invalid by the user's next act; of *users*; of *items*. Sizes are shares of the different keys. Also what lists hit in a
cache of any size, by their time to live.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.evaluation.benchmarks.eviction import Access, lru, optimum, s3_fifo, sieve
from recsys.contracts.errors import InvalidData
from recsys.contracts.types import MS_PER_SECOND, EventType
from recsys.features.definitions import ENGAGED_VISITS
from recsys.lake.lake import TIME, days, read_day
from recsys.result import Goal, Result
from serving.caching.cache import Cache

_GOAL = -0.2
_TTLS_S = (0.5, 2.0, 10.0, 60.0, 300.0)
_POLICIES = {"sieve": sieve, "s3_fifo": s3_fifo, "optimum": optimum}


@dataclass(frozen=True)
class CacheBench:
    """`lake`: None: only Zipf's law. `percents`: sizes."""

    lake: Path | None = None
    seed: int = 0
    accesses: int = 200_000
    keys: int = 20_000
    percents: tuple[int, ...] = (1, 5, 10, 25)

    @classmethod
    def quick(cls, lake: Path | None, seed: int) -> "CacheBench":
        return cls(lake, seed, accesses=20_000, keys=2_000)


def run(bench: CacheBench) -> Result:
    """Shares of misses with LRU, and changes against it: -0.2 is a fifth fewer.
    Raises `InvalidData`: the lake has no impressions."""
    figures: dict[str, float] = {}
    for name, accesses in _zipf(bench):
        figures |= _measure(name, accesses, bench.percents)
    if bench.lake is not None:
        lists, times_s, items = _of_lake(bench.lake)
        figures |= _measure("lists", lists, bench.percents)
        figures |= {f"lists_hits_with_{ttl_s:g}_s": _hits(lists, times_s, ttl_s) for ttl_s in _TTLS_S}
        figures |= _measure("users", _alone([user for user, _ in lists]), bench.percents)
        figures |= _measure("items", _alone(items), bench.percents)
    goals = {name: Goal("<=", _GOAL) for name in figures if name.startswith("lists") and "sieve" in name}
    return Result("bench caches", bench.seed, figures, goals)


def _measure(name: str, accesses: Sequence[Access], percents: Sequence[int]) -> Mapping[str, float]:
    keys = len({key for key, _ in accesses})
    figures: dict[str, float] = {f"{name}_accesses": len(accesses), f"{name}_keys": keys}
    for percent in percents:
        entries = max(1, keys * percent // 100)
        before = lru(accesses, entries)
        figures[f"{name}_{percent}pct_lru_misses"] = before / len(accesses)
        for policy, misses in _POLICIES.items():
            figures[f"{name}_{percent}pct_{policy}_change"] = misses(accesses, entries) / before - 1
    return figures


def _hits(accesses: Sequence[Access], times_s: Sequence[float], ttl_s: float) -> float:
    """Share of the accesses that hit when nothing is evicted."""
    now_s = 0.0
    cache: Cache[Hashable, bool] = Cache(len(accesses), lambda value: 1, clock=lambda: now_s)
    for (key, version), time_s in zip(accesses, times_s, strict=True):
        now_s = time_s
        if cache.get(key, version) is None:
            cache.put(key, True, ttl_s, version)
    return cache.hits / len(accesses)


def _zipf(bench: CacheBench) -> Iterator[tuple[str, list[Access]]]:
    rng = np.random.default_rng(bench.seed)
    for exponent in (1.0, 0.8):
        share = np.arange(1, bench.keys + 1) ** -exponent
        keys = rng.choice(bench.keys, bench.accesses, p=share / share.sum())
        yield f"zipf_{exponent}", _alone(keys.tolist())


def _alone(keys: Sequence[object]) -> list[Access]:
    return [(key, None) for key in keys]


def _of_lake(lake: Path) -> tuple[list[Access], list[float], list[str]]:
    """Lists and when they were asked for, in order, and the shown items."""
    columns = ["user_id", "request_id", "type", TIME]
    events = [read_day(lake, day, columns=[*columns, "item_id"]) for day in days(lake)]
    if not events:
        raise InvalidData(f"{lake} has no events: import a data set with `recsys data import PATH`")
    rows = pa.concat_tables(events)
    acts: dict[str, int] = {}
    asked: set[str | None] = set()
    lists: list[Access] = []
    times_s: list[float] = []
    for user, request, kind, time_ms in zip(*(rows[c].to_pylist() for c in columns), strict=True):
        if kind in ENGAGED_VISITS.types:
            acts[user] = acts.get(user, 0) + 1
        elif kind == EventType.IMPRESSION and (request is None or request not in asked):
            asked.add(request)
            lists.append((user, acts.get(user, 0)))
            times_s.append(time_ms / MS_PER_SECOND)
    if not lists:
        raise InvalidData(f"{lake} has no impressions, so nobody knows when lists were asked for")
    shown = rows.filter(pc.equal(rows["type"], EventType.IMPRESSION.value))
    return lists, times_s, shown["item_id"].to_pylist()
