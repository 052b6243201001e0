"""`recsys bench serve`: the whole request path under an open load, at rates up to saturation.

Everything is real and on this machine: Redis, the broker, a feature worker, the API and the load generator are five
processes that share its cores. The bundle has 100 k items × 64 and the ladder's INT8 student with random weights
(`infra.bench.serving_bundle`); 500 candidates are ranked, 20 returned; users by Zipf's law; 20 % of the requests
follow an event of the same user.

1. rates: geometric steps until a rate is not sustained; the last one that was is the saturation.
2. half: at half of the saturation, percentiles from when each request was due.
3. floors: what FAISS, onnxruntime, Redis and the HTTP server take alone, in the same run.
4. cached: the same with the result cache on and a load that hits it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from infra.bench.load import Answers, Load, run_load
from infra.bench.rig import PARTITIONS, StreamRig
from infra.bench.serving_bundle import write_bench_bundle
from infra.bench.serving_floors import floors
from infra.bench.serving_world import bench_items, write_past
from infra.console import console
from infra.local.process import ChildProcess, free_port
from infra.processes import recsys_command
from recsys.result import Goal, Result

_START_TIMEOUT_S = 180.0
_NO_CACHES = {"RECSYS_RESULT_CACHE_MS": "0", "RECSYS_VECTOR_CACHE_BYTES": "0"}
_SUSTAINED = 0.97  # of the due requests answered within the run
_SATURATED_P99_MS = 500.0


@dataclass(frozen=True)
class ServeBench:
    """The workload's sizes; `quick` has less of everything but the same code."""

    seed: int = 0
    items: int = 100_000
    users: int = 100_000
    past_events: int = 300_000
    workers: int = 2
    first_rate: float = 40.0
    step: float = 1.3
    step_s: float = 8.0
    half_s: float = 30.0
    plot: Path | None = None

    @classmethod
    def quick(cls, seed: int) -> "ServeBench":
        return cls(seed, items=20_000, past_events=30_000, first_rate=30.0, step=1.6, step_s=3.0, half_s=6.0)


@dataclass(frozen=True)
class Api:
    """A running API process tree."""

    port: int
    process: ChildProcess

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rss_mib(self) -> float:
        """Of its largest process."""
        root = psutil.Process(self.process.pid)
        return max(float(p.memory_info().rss) for p in (root, *root.children(recursive=True))) / 2**20

    def stages(self) -> dict[str, tuple[float, float]]:
        """Stage → (seconds, requests) so far, all workers together."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        read = {
            part: dict(re.findall(rf'recsys_stage_seconds_{part}{{stage="(\w+)"}} (\S+)', text))
            for part in ("sum", "count")
        }
        return {s: (float(read["sum"][s]), float(n)) for s, n in read["count"].items()}


def run(config: ServeBench) -> Result:
    """All four parts."""
    figures: dict[str, float] = {}
    items = bench_items(config.items, config.seed)
    with StreamRig() as rig:
        console.print(f"bundle of {config.items} items, {config.past_events} events into Redis …")
        bundle = write_bench_bundle(rig.home / "bundles", items, config.seed)
        write_past(rig.store, items, config.users, config.past_events, PARTITIONS, config.seed)
        rig.start_worker()
        figures |= floors(bundle, rig.store, config.users, config.seed)
        load = Load(0, config.first_rate, config.step_s, config.users, config.items, seed=config.seed)
        with api(rig, config.workers, **_NO_CACHES) as served:
            load = replace(load, port=served.port)
            run_load(replace(load, rate=config.first_rate, seconds=config.step_s))  # warm-up
            curve = saturate(load, config.step)
            saturation = max((a.per_s for a in curve.values() if sustained(a)), default=0.0)
            before = served.stages()
            half = run_load(replace(load, rate=max(saturation / 2, 1.0), seconds=config.half_s))
            figures |= _per_stage(before, served.stages()) | {
                "saturation_per_s": saturation,
                "half_rate_per_s": saturation / 2,
                "half_p50_ms": half.percentile(50),
                "half_p99_ms": half.percentile(99),
                "half_errors": half.errors,
                "half_degraded": half.degraded,
                "worker_rss_mib": served.rss_mib(),
            }
    figures["path_over_floors"] = figures["stage_total_ms"] / figures["floor_total_ms"]
    if config.plot:
        _plot(config.plot, curve)
    goals = {
        "half_p50_ms": Goal("<=", 5),
        "half_p99_ms": Goal("<=", 20),
        "saturation_per_s": Goal(">=", 350),
        "half_errors": Goal("==", 0),
        "worker_rss_mib": Goal("<=", 600),
        "path_over_floors": Goal("<=", 1.6),
    }
    return Result("bench serve", config.seed, figures, goals)


@contextmanager
def api(rig: StreamRig, workers: int, **settings: str) -> Iterator[Api]:
    """`recsys serve` on the rig, ready to answer."""
    port = free_port()
    environ = {
        "RECSYS_REDIS_URL": rig.redis.url,
        "RECSYS_KAFKA_BOOTSTRAP": rig.kafka.bootstrap,
        "RECSYS_PARTITIONS": str(PARTITIONS),
        "RECSYS_HOME": str(rig.home),
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    command = recsys_command("serve", "--port", str(port), "--workers", str(workers))
    process = ChildProcess(command, rig.home / f"api-{port}.log", environ=os.environ | environ)
    served = Api(port, process)
    try:
        process.wait_until(lambda: _ready(served.url), _START_TIMEOUT_S)
        yield served
    finally:
        process.stop()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def sustained(answers: Answers) -> bool:
    """Everything that was due was answered, in time."""
    answered = len(answers.ms) >= _SUSTAINED * (len(answers.ms) + answers.errors)
    return answered and answers.percentile(99) <= _SATURATED_P99_MS


def saturate(load: Load, step: float) -> dict[float, Answers]:
    """Rate → answers, rates growing until one is not sustained."""
    curve: dict[float, Answers] = {}
    while True:
        answers = curve[load.rate] = run_load(load)
        console.print(
            f"{load.rate:6.0f}/s due: {answers.per_s:6.0f}/s answered, p50 {answers.percentile(50):.1f} ms,"
            f" p99 {answers.percentile(99):.1f} ms, {answers.errors} errors"
        )
        if not sustained(answers):
            return curve
        load = replace(load, rate=load.rate * step, seed=load.seed + 1)


def _per_stage(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Mean milliseconds of each stage between two looks."""
    means = {}
    for stage, (seconds, n) in after.items():
        old_seconds, old_n = before.get(stage, (0.0, 0.0))
        if n > old_n:
            means[f"stage_{stage}_ms"] = 1e3 * (seconds - old_seconds) / (n - old_n)
    return means | {"stage_total_ms": sum(means.values())}


def _plot(path: Path, curve: Mapping[float, Answers]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rates = list(curve)
    for q in (50, 90, 99):
        axes.plot(rates, [curve[r].percentile(q) for r in rates], marker="o", label=f"p{q}")
    axes.set(xlabel="requests a second (open load)", ylabel="milliseconds from when due", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
