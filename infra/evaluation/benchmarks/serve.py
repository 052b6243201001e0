"""`recsys bench serve`: the whole request path under an open load, at rates up to saturation.

Everything is real: Redis, the broker, a feature worker, the API's workers and the load generator are processes that
share this machine's cores. The bundle has 100 k items × 64 and the ladder's INT8 student with random weights; 500
candidates are ranked, 20 returned; users follow Zipf's law; 20 % of the requests follow an event of the same user.

Without caches:
1. floors: what FAISS, onnxruntime, Redis and the HTTP server take alone, and the whole path, one request at a time.
2. rates: geometric steps until a rate is not sustained; the last sustained one is the saturation.
3. half: at half of the saturation, percentiles from when each request was due; stages; processor time by process.
4. overload: ten times that rate: what is refused, and how long accepted requests take.

With caches:
5. rates with a load of which 70 % hit the result cache.
6. freshness: from a click to a changed answer, under 2 000 events per second.
7. memory: resident set after each of these loads; `requests` more tell whether it stays flat. RSS, PSS and private
   memory of every process at the end.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from infra.evaluation.benchmarks.load import Answers, Load, run_load
from infra.evaluation.benchmarks.plots import plot_serving
from infra.evaluation.benchmarks.process_cost import MemoryCurve, cpu_time, memory_figures
from infra.evaluation.benchmarks.saturation import saturate, saturation
from infra.evaluation.benchmarks.serving_fixture import bench_items, write_bench_bundle, write_history
from infra.evaluation.benchmarks.serving_floors import ROUNDS, floors, median_ms, zipf_users
from infra.evaluation.benchmarks.serving_fresh import Freshness, measure
from infra.evaluation.stream_rig import PARTITIONS, StreamRig
from infra.evaluation.timing import percentiles_ms
from infra.local.children import recsys_command
from infra.local.process import ChildProcess, free_port
from infra.terminal import console
from recsys.bundle import Bundle
from recsys.contracts.types import Item
from recsys.result import Goal, Result

_START_TIMEOUT_S = 180.0
NO_CACHES = {"RECSYS_RESULT_CACHE_MS": "0", "RECSYS_VECTOR_CACHE_BYTES": "0"}
_MEMORY_LOAD_S = 30.0  # of load between two readings of the memory


@dataclass(frozen=True)
class ServeBench:
    seed: int = 0
    items: int = 100_000
    users: int = 100_000
    history_events: int = 200_000
    workers: int = 2
    threads: int = 2
    first_rate: float = 60.0
    step: float = 1.3
    step_s: float = 6.0
    half_s: float = 20.0
    overload: float = 10.0
    cached_rate: float = 200.0
    hot_users: int = 8
    hot_share: float = 0.75  # some miss: the first in each half second, in each worker
    fresh_s: float = 12.0
    events_per_s: float = 2_000.0
    requests: int = 0  # to be answered with caches while memory is recorded
    plot: Path | None = None

    @classmethod
    def quick(cls, seed: int) -> "ServeBench":
        return cls(
            seed,
            items=20_000,
            history_events=30_000,
            first_rate=30.0,
            step=1.6,
            step_s=3.0,
            half_s=6.0,
            cached_rate=60.0,
            fresh_s=4.0,
            events_per_s=500.0,
        )


@dataclass(frozen=True)
class Api:
    """A running API process tree."""

    port: int
    process: ChildProcess

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stages(self) -> dict[str, tuple[float, float]]:
        """Stage → (seconds, requests) so far, all workers together."""
        sums, counts = (
            self._metric(rf'recsys_stage_seconds_{part}{{stage="(\w+)"}}') for part in ("sum", "count")
        )
        return {stage: (sums[stage], n) for stage, n in counts.items()}

    def cache(self, name: str) -> tuple[float, float]:
        """Hits and misses so far, all workers together."""
        found = self._metric(rf'recsys_cache{{cache="{name}",what="(\w+)"}}')
        return found["hits"], found["misses"]

    def paths(self) -> tuple[float, float]:
        """Lists made by compiled code and by the stages alone so far, all workers together."""
        found = self._metric(r'recsys_request_path_total{path="(\w+)"}')
        return found.get("compiled", 0.0), found.get("stages", 0.0)

    def _metric(self, pattern: str) -> dict[str, float]:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return {label: float(value) for label, value in re.findall(rf"{pattern} (\S+)", text)}


def run(config: ServeBench) -> Result:
    """Measure every part on one set of servers."""
    items = bench_items(config.items, config.seed)
    with StreamRig() as rig:
        figures = prepared_floors(rig, config, items)
        measured = measure_path(rig, config, items, figures["floor_total_ms"])
        figures |= measured.figures
    if config.plot:
        plot_serving(config.plot, measured.curve, measured.cached_curve, figures)
    return Result("bench serve", config.seed, figures, goals(config))


def goals(config: ServeBench) -> dict[str, Goal]:
    """Of a machine on which the Python path does 128 requests/s with 100 k items (issue: the hot path)."""
    thousands = config.items / 1_000
    return {
        "half_p50_ms": Goal("<=", 4),
        "half_p99_ms": Goal("<=", 15),
        "half_errors": Goal("==", 0),
        "half_cpu_total_ms": Goal("<=", 4),
        # a ranker that shows everybody the same items would hide what the item feed and the worker's writes cost
        "half_distinct_share": Goal(">=", 0.2),
        "saturation_per_s": Goal(">=", 400),
        "cached_saturation_per_s": Goal(">=", 1_500),
        "fresh_p99_ms": Goal("<=", 60),
        "overload_p99_ms": Goal("<=", 60),
        "overload_other_errors": Goal("==", 0),
        "memory_api_rss_mib": Goal("<=", 125 + 0.75 * thousands),
        "memory_api_private_mib": Goal("<=", 60),
        "memory_api_tree_pss_mib": Goal("<=", 280 + thousands),
        "worker_rss_growth_mib": Goal("<=", 20),
        "path_over_floors": Goal("<=", 1.3),
    }


@dataclass(frozen=True)
class MeasuredPath:
    """Figures of one request path, and its answers by rate, without and with caches."""

    figures: dict[str, float]
    curve: Mapping[float, Answers]
    cached_curve: Mapping[float, Answers]


def prepared_floors(rig: StreamRig, config: ServeBench, items: Sequence[Item]) -> dict[str, float]:
    """Publish the bundle, fill the store, and measure the floors."""
    console.print(f"bundle of {config.items} items, {config.history_events} events into Redis …")
    bundle = prepare(rig, items, config.users, config.history_events, config.seed)
    return floors(bundle, rig.store, config.users, config.seed)


def measure_path(
    rig: StreamRig, config: ServeBench, items: Sequence[Item], floor_ms: float, **settings: str
) -> MeasuredPath:
    """Measure API servers with these settings, without and with caches."""
    settings = {"RECSYS_THREADS": str(config.threads), **settings}
    with api(rig, config.workers, **{**NO_CACHES, **settings}) as served:
        curve, figures = _without_caches(rig, served, config)
    with api(rig, config.workers, **settings) as served:
        cached_curve, found = _with_caches(rig, served, config, items)
    figures |= found
    figures["path_over_floors"] = figures["path_ms"] / floor_ms
    return MeasuredPath(figures, curve, cached_curve)


def prepare(rig: StreamRig, items: Sequence[Item], users: int, history_events: int, seed: int) -> Bundle:
    """Publish the benchmark's bundle, fill the store, and start a feature worker."""
    bundle = write_bench_bundle(rig.home / "bundles", items, seed)
    write_history(rig.store, items, users, history_events, PARTITIONS, seed)
    rig.start_worker()
    return bundle


def _without_caches(
    rig: StreamRig, served: Api, config: ServeBench
) -> tuple[dict[float, Answers], dict[str, float]]:
    load = Load(served.port, config.first_rate, config.step_s, config.users, config.items, seed=config.seed)
    run_load(load)  # warm-up
    figures = {"path_ms": median_ms(served.port, zipf_users(config.users, config.seed), ROUNDS)}
    curve = saturate(load, config.step)
    most = saturation(curve)
    half_rate = max(most / 2, 1.0)
    before, paths = served.stages(), served.paths()
    with cpu_time(**_pids(rig, served)) as cpu_s:
        half = run_load(replace(load, rate=half_rate, seconds=config.half_s, seed=config.seed + 100))
    compiled, stages = (now - old for now, old in zip(served.paths(), paths, strict=True))
    figures |= _per_stage(before, served.stages()) | {
        "saturation_per_s": most,
        "half_rate_per_s": half_rate,
        **{f"half_p{q}_ms": half.percentile(q) for q in (50, 90, 99)},
        "half_errors": half.errors,
        "half_degraded": half.degraded,
        "half_generator_late_ms": half.late_ms,
        "half_cpu_load_ms": 1e3 * half.cpu_s / max(len(half.ms), 1),
        **{f"half_cpu_{name}_ms": 1e3 * s / max(len(half.ms), 1) for name, s in cpu_s.items()},
        "half_cpu_total_ms": 1e3 * sum(cpu_s.values()) / max(len(half.ms), 1),
        "half_shown": half.shown,
        "half_distinct_items": len(half.items),
        "half_distinct_share": len(half.items) / max(half.shown, 1),
        "half_compiled_share": compiled / max(compiled + stages, 1.0),
    }
    over = run_load(replace(load, rate=half_rate * config.overload, seed=config.seed + 101))
    shed = over.failed.get(503, 0)
    return curve, figures | {
        "overload_rate_per_s": half_rate * config.overload,
        "overload_answered_per_s": over.per_s,
        "overload_refused": shed,
        "overload_other_errors": over.errors - shed,
        "overload_p99_ms": over.percentile(99),
        "overload_generator_late_ms": over.late_ms,
    }


def _with_caches(
    rig: StreamRig, served: Api, config: ServeBench, items: Sequence[Item]
) -> tuple[dict[float, Answers], dict[str, float]]:
    load = Load(
        served.port,
        config.cached_rate,
        config.step_s,
        config.users,
        config.items,
        hot=config.hot_users,
        hot_share=config.hot_share,
        seed=config.seed + 1_000,
    )
    run_load(load)  # warm-up
    memory = MemoryCurve(served.process.pid)
    before = served.cache("results")
    curve = saturate(load, config.step, lambda answers: memory.note(len(answers.ms)))
    hits, misses = (now - old for now, old in zip(served.cache("results"), before, strict=True))
    most = saturation(curve)
    fresh = measure(
        Freshness(served.port, rig.kafka.connection, config.events_per_s, config.fresh_s, seed=config.seed),
        items,
    )
    steady = run_load(replace(load, rate=max(most / 2, 1.0), seconds=config.half_s))
    memory.note(len(steady.ms))
    longer = replace(load, rate=max(most / 2, 1.0), seconds=_MEMORY_LOAD_S)
    while memory.requests[-1] < config.requests:
        answered = len(run_load(longer).ms)
        memory.note(answered)
        if not answered:
            break
    return curve, {
        "cached_saturation_per_s": most,
        "cached_hit_share": hits / max(hits + misses, 1.0),
        "cached_half_p50_ms": steady.percentile(50),
        "cached_half_p99_ms": steady.percentile(99),
        "fresh_events_per_s": config.events_per_s,
        "fresh_probes": len(fresh),
        **percentiles_ms("fresh", fresh),
        "worker_rss_mib": max(memory.mib),
        "worker_rss_growth_mib": memory.growth_mib,
        "worker_rss_requests": float(memory.requests[-1]),
        **memory_figures(_pids(rig, served)),
    }


def _pids(rig: StreamRig, served: Api) -> dict[str, int]:
    servers = {"api": served.process.pid, "redis": rig.redis.pid, "kafka": rig.kafka.pid}
    return servers | {"stream": rig.workers[0].pid}


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


def _per_stage(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Mean milliseconds of each stage between two readings."""
    means = {}
    for stage, (seconds, n) in after.items():
        old_seconds, old_n = before.get(stage, (0.0, 0.0))
        if n > old_n:
            means[f"stage_{stage}_ms"] = 1e3 * (seconds - old_seconds) / (n - old_n)
    return means | {"stage_total_ms": sum(means.values())}
