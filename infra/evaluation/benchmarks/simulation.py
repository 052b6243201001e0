"""`recsys bench simulation`: cost of a simulated world: seconds, memory, visits of a day, lists answered.

The world is created in its own process, so that the process's memory is the world's.
"""

import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, fields

import numpy as np
import psutil

from recsys.result import Result
from recsys.simulation.behavior import Behavior
from recsys.simulation.world import World, WorldConfig, create_world

_LIST = 20


@dataclass(frozen=True)
class SimulationBench:
    """`lists`: answered one after the other, by as many different users as there are."""

    seed: int = 0
    users: int = 1_000_000
    items: int = 1_000_000
    lists: int = 20_000

    @classmethod
    def quick(cls, seed: int) -> "SimulationBench":
        return cls(seed, users=10_000, items=10_000, lists=2_000)


def run(bench: SimulationBench) -> Result:
    """Measure one world; there are no goals."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        figures = pool.apply(_measure, (bench,))
    return Result("bench simulation", bench.seed, figures)


def _measure(bench: SimulationBench) -> dict[str, float]:
    before = _peak_mib()
    began = time.perf_counter()
    world = create_world(WorldConfig(seed=bench.seed, users=bench.users, items=bench.items))
    created = time.perf_counter()
    users, _ = world.visits(0)
    visited = time.perf_counter()
    world_peak = _peak_mib()
    alive = world.alive(world.config.start_ms)

    behavior, rng = Behavior(world), np.random.default_rng(bench.seed)
    chosen = rng.choice(bench.users, min(bench.lists, bench.users), replace=False)
    lists = rng.choice(alive, (bench.lists, _LIST))
    resident = _resident_kib()
    visitors = [behavior.visitor(row) for row in chosen.tolist()]
    visitors_kib = _resident_kib() - resident
    answering = time.perf_counter()
    for n, rows in enumerate(lists):
        visitor = visitors[n % len(visitors)]
        behavior.begin_session(visitor)
        behavior.respond(visitor, rows, world.config.start_ms)
    answered = time.perf_counter()
    return {
        "users": bench.users,
        "items": bench.items,
        "create_s": created - began,
        "arrays_mib": _arrays_mib(world),
        "peak_mib": world_peak - before,
        "visits_of_a_day": len(users),
        "visits_s": visited - created,
        "kib_per_active_user": visitors_kib / len(visitors),
        "lists_per_s": bench.lists / (answered - answering),
    }


def _arrays_mib(world: World) -> float:
    arrays = (getattr(world, f.name) for f in fields(world) if f.name != "config")
    return float(sum(array.nbytes for array in arrays)) / 2**20


def _resident_kib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**10


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
