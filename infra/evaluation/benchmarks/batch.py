"""`recsys bench batch`: wall time, CPU time and peak memory of the Spark job at 1×, 2× and 4× the events.

Users grow with the events, items do not, so items get longer histories. One session, after a warm-up run; memory is
that of the JVM and its Python workers.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from recsys.contracts.types import MS_PER_DAY
from recsys.lake.lake import EVENTS, day_writer, events_table
from recsys.result import Goal, Result
from recsys.spark_session import spark_session
from training.features.feature_job import FeatureJob
from training.features.job import build

_SAMPLE_S = 0.2
_SCALES = (1, 2, 4)
_MIB = 1 << 20


@dataclass(frozen=True)
class BatchBench:
    """Sizes at 1×."""

    seed: int = 0
    events: int = 250_000
    users: int = 5_000
    items: int = 5_000
    days: int = 10
    buckets: int = 64
    memory: str = "2g"

    @classmethod
    def quick(cls, seed: int) -> "BatchBench":
        return cls(seed=seed, events=10_000, users=200, items=200, days=3)


def run(config: BatchBench) -> Result:
    """Build examples and sequences of a lake of each size."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-batch-") as folder:
        lakes = {scale: write_lake(Path(folder) / f"lake-{scale}", config, scale) for scale in _SCALES}
        spark = spark_session("local[2]", config.memory)
        try:
            build(spark, FeatureJob(str(lakes[1]), f"{folder}/warm-up", buckets=config.buckets))
            for scale in _SCALES:
                with measured() as cost:
                    job = FeatureJob(str(lakes[scale]), f"{folder}/out-{scale}", buckets=config.buckets)
                    report = build(spark, job)
                figures |= {
                    f"events_{scale}x": report.events,
                    f"examples_{scale}x": report.examples,
                    f"wall_s_{scale}x": cost.wall_s,
                    f"cpu_s_{scale}x": cost.cpu_s,
                    f"memory_mib_{scale}x": cost.memory_mib,
                }
        finally:
            spark.stop()
    more = (figures["events_4x"] - figures["events_1x"]) / 1e6
    figures |= {
        "wall_4x_over_1x": figures["wall_s_4x"] / figures["wall_s_1x"],
        "memory_4x_over_1x": figures["memory_mib_4x"] / figures["memory_mib_1x"],
        "wall_s_per_million_events": (figures["wall_s_4x"] - figures["wall_s_1x"]) / more,
        "cpu_s_per_million_events": (figures["cpu_s_4x"] - figures["cpu_s_1x"]) / more,
    }
    goals = {"wall_4x_over_1x": Goal("<=", 4.0), "memory_4x_over_1x": Goal("<=", 2.0)}
    return Result("bench batch", config.seed, figures, goals)


def write_lake(lake: Path, config: BatchBench, scale: int = 1) -> Path:
    """Write a lake of `scale` times the events."""
    fixture = FeatureFixture.make(config.users * scale, config.items, config.days, config.seed)
    with day_writer(lake, EVENTS, "bench") as writer:
        for part in range(scale):
            length_ms = config.days * MS_PER_DAY
            writer.write(
                events_table(fixture.log(config.events, fixture.start_ms, length_ms, name=f"part-{part}"))
            )
    fixture.write_tables(lake)
    return lake


@dataclass
class Cost:
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_mib: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """What the children of this process (the JVM and its workers) cost inside the block."""
    cost, stop = Cost(), threading.Event()
    started, before = time.monotonic(), _cpu_s()

    def sample() -> None:
        while not stop.wait(_SAMPLE_S):
            cost.memory_mib = max(cost.memory_mib, _memory_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield cost
    finally:
        stop.set()
        sampler.join()
        cost.wall_s = time.monotonic() - started
        cost.cpu_s = _cpu_s() - before


def _over_children(read: Callable[[psutil.Process], float]) -> float:
    """Sum over all descendants; one that ends meanwhile is left out."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += read(child)
    return total


def _cpu_s() -> float:
    """CPU seconds of all descendants, those that have ended included where their parent waited for them."""
    return _over_children(lambda child: sum(child.cpu_times()[:4]))


def _memory_mib() -> float:
    """Resident memory of all descendants; pages that forked workers share count once in each."""
    return _over_children(lambda child: child.memory_info().rss) / _MIB
