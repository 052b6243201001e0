"""`recsys bench caches`: misses of SIEVE, which serves, and of S3-FIFO and the optimum, against LRU at equal bytes.

Sequences: Zipf's law with two exponents and, from a lake, the impressions in their order: of *lists* by user, made
invalid by the user's next act; of *users*; of *items*. Sizes are shares of the different keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.evaluation.benchmarks.eviction import Access, lru, optimum, s3_fifo, sieve
from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType
from recsys.features.definitions import ENGAGED_VISITS
from recsys.lake.lake import days, read_day
from recsys.result import Goal, Result

_GOAL = -0.2
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
    for name, accesses in _sequences(bench):
        figures |= {f"{name}_{what}": figure for what, figure in _measure(accesses, bench.percents).items()}
    goals = {name: Goal("<=", _GOAL) for name in figures if name.startswith("lists") and "sieve" in name}
    return Result("bench caches", bench.seed, figures, goals)


def _measure(accesses: Sequence[Access], percents: Sequence[int]) -> Mapping[str, float]:
    keys = len({key for key, _ in accesses})
    figures: dict[str, float] = {"accesses": len(accesses), "keys": keys}
    for percent in percents:
        entries = max(1, keys * percent // 100)
        before = lru(accesses, entries)
        figures[f"{percent}pct_lru_misses"] = before / len(accesses)
        for name, misses in _POLICIES.items():
            figures[f"{percent}pct_{name}_change"] = misses(accesses, entries) / before - 1
    return figures


def _sequences(bench: CacheBench) -> Iterator[tuple[str, list[Access]]]:
    rng = np.random.default_rng(bench.seed)
    for exponent in (1.0, 0.8):
        share = np.arange(1, bench.keys + 1) ** -exponent
        keys = rng.choice(bench.keys, bench.accesses, p=share / share.sum())
        yield f"zipf_{exponent}", _alone(keys.tolist())
    if bench.lake is not None:
        yield from _of_lake(bench.lake)


def _alone(keys: Sequence[object]) -> list[Access]:
    return [(key, None) for key in keys]


def _of_lake(lake: Path) -> Iterator[tuple[str, list[Access]]]:
    columns = ["user_id", "item_id", "request_id", "type"]
    events = [read_day(lake, day, columns=columns) for day in days(lake)]
    if not events:
        raise InvalidData(f"{lake} has no events: import a data set with `recsys data import PATH`")
    rows = pa.concat_tables(events)
    acts: dict[str, int] = {}
    asked: set[str | None] = set()
    lists: list[Access] = []
    for user, request, kind in zip(
        *(rows[c].to_pylist() for c in ("user_id", "request_id", "type")), strict=True
    ):
        if kind in ENGAGED_VISITS.types:
            acts[user] = acts.get(user, 0) + 1
        elif kind == EventType.IMPRESSION and (request is None or request not in asked):
            asked.add(request)
            lists.append((user, acts.get(user, 0)))
    if not lists:
        raise InvalidData(f"{lake} has no impressions, so nobody knows when lists were asked for")
    yield "lists", lists
    yield "users", _alone([user for user, _ in lists])
    shown = rows.filter(pc.equal(rows["type"], EventType.IMPRESSION.value))
    yield "items", _alone(shown["item_id"].to_pylist())
