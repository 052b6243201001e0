"""`recsys drill serve`: an answer whatever dies.

A steady load asks for lists and sends events while one part after the other is killed, frozen or overloaded. For each
fault: how many requests failed, the p99 from when each was due, how many answers were degraded, and how long after
the fault had ended the last such answer came. At the end, every event that was answered with 202 while the broker was
frozen must be in the log.
"""

import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson
import psutil

from infra.bench.load import Answers, Load, run_load
from infra.bench.rig import PARTITIONS, StreamRig
from infra.bench.serve import Api, api
from infra.bench.serving_bundle import write_bench_bundle
from infra.bench.serving_world import bench_items, write_past
from infra.console import console
from recsys.bundle import publish
from recsys.client import Client
from recsys.errors import InvalidBundle
from recsys.result import Goal, Result
from recsys.types import Topic

_WORKERS = 2
_USERS = 10_000
_CONNECTED_S = 2.0  # the load has begun, all connections are there


@dataclass(frozen=True)
class ServeDrill:
    """`rate` requests a second; each fault lasts `fault_s` within a load of `load_s`."""

    seed: int = 0
    items: int = 20_000
    past_events: int = 50_000
    rate: float = 40.0
    load_s: float = 20.0
    fault_s: float = 3.0
    overload: float = 10.0

    @classmethod
    def quick(cls, seed: int) -> "ServeDrill":
        return cls(seed, items=4_000, past_events=10_000, rate=15.0, load_s=10.0, fault_s=2.0)


@dataclass(frozen=True)
class _Drill:
    config: ServeDrill
    rig: StreamRig
    served: Api
    load: Load


def run(config: ServeDrill) -> Result:
    """Every fault, one after the other, on one system."""
    items = bench_items(config.items, config.seed)
    with StreamRig() as rig:
        write_bench_bundle(rig.home / "bundles", items, config.seed)
        write_past(rig.store, items, _USERS, config.past_events, PARTITIONS, config.seed)
        rig.start_worker()
        with api(rig, _WORKERS, RECSYS_RESULT_CACHE_MS="0", RECSYS_BUNDLE_POLL_S="0.2") as served:
            load = Load(served.port, config.rate, config.load_s, _USERS, config.items, seed=config.seed)
            run_load(replace(load, seconds=config.load_s / 4))  # warm-up
            figures = _all_faults(_Drill(config, rig, served, load))
    none_failed = {
        f"{fault}_errors": Goal("==", 0)
        for fault in (
            "calm",
            "redis_frozen",
            "redis_killed",
            "broker_frozen",
            "worker_killed",
            "broken_bundle",
        )
    }
    goals = none_failed | {
        "events_lost": Goal("==", 0),
        "overload_other_errors": Goal("==", 0),
        "broken_bundles_served": Goal("==", 0),
    }
    return Result("drill serve", config.seed, figures, goals)


def _all_faults(drill: _Drill) -> dict[str, float]:
    rig, pause_s = drill.rig, drill.config.fault_s
    figures = _during(drill, "calm", lambda: None)[0]
    figures |= _during(drill, "redis_frozen", lambda: _freeze(rig.redis.pid, pause_s))[0]
    figures |= _during(drill, "worker_killed", lambda: _restart_worker(rig, pause_s))[0]
    figures |= _during(drill, "broken_bundle", lambda: _publish_broken(drill, figures))[0]
    frozen, answers = _during(drill, "broker_frozen", lambda: _freeze(rig.kafka.pid, pause_s))
    figures |= frozen | {"events_lost": _lost_events(rig, answers)}
    figures |= _during(drill, "api_killed", lambda: _kill_one_worker(drill.served))[0]
    figures |= _overload(drill)
    figures |= _during(drill, "redis_killed", lambda: _restart(rig.redis.kill, rig.redis.start, pause_s))[0]
    figures |= _during(drill, "broker_killed", lambda: _restart(rig.kafka.kill, rig.kafka.start, pause_s))[0]
    return figures


def _during(drill: _Drill, name: str, fault: Callable[[], None]) -> tuple[dict[str, float], Answers]:
    """Figures of a load in whose middle the fault happens (in this thread: children belong to it)."""
    load = replace(drill.load, seed=zlib.crc32(name.encode()))
    found: list[Answers] = []
    loading = threading.Thread(target=lambda: found.append(run_load(load)))
    began = time.perf_counter()
    loading.start()
    time.sleep(_CONNECTED_S + drill.config.load_s / 4)
    fault()
    ended = time.perf_counter() - began
    loading.join()
    (answers,) = found
    late = [at + _CONNECTED_S - ended for at in answers.bad_at_s]
    console.print(
        f"{name}: {answers.errors} of {len(answers.ms) + answers.errors} failed {answers.failed or ''},"
        f" {answers.degraded} degraded, p99 {answers.percentile(99):.0f} ms"
    )
    if answers.errors > len(answers.ms):
        console.print(drill.served.process.log_tail(20), markup=False)
    return {
        f"{name}_errors": answers.errors,
        f"{name}_degraded": answers.degraded,
        f"{name}_p99_ms": answers.percentile(99),
        f"{name}_recovery_s": max([0.0, *late]),
    }, answers


def _freeze(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def _restart(kill: Callable[[], object], start: Callable[[], object], pause_s: float) -> None:
    kill()
    time.sleep(pause_s)
    start()


def _restart_worker(rig: StreamRig, pause_s: float) -> None:
    rig.kill_worker(rig.workers[-1])
    time.sleep(pause_s)
    rig.start_worker()


def _kill_one_worker(served: Api) -> None:
    """The busiest of the API's processes; its supervisor starts another."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    max(children, key=lambda p: p.memory_info().rss).kill()


def _publish_broken(drill: _Drill, figures: dict[str, float]) -> None:
    """A bundle with one wrong byte: by the command it cannot be published, by hand it is not served."""
    bundles = drill.rig.home / "bundles"
    shutil.copytree(bundles / "bench", bundles / "broken")
    path = bundles / "broken" / "ranker.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    try:
        publish(bundles, "broken")
    except InvalidBundle:
        (bundles / "CURRENT").write_text("broken\n", encoding="utf-8")
    time.sleep(drill.config.fault_s)
    with Client(drill.served.url, timeout_s=30) as client:
        figures["broken_bundles_served"] = float(client.bundles()["active"] != "bench")
    (bundles / "CURRENT").write_text("bench\n", encoding="utf-8")


def _overload(drill: _Drill) -> dict[str, float]:
    """Ten times the load: what is more than can be done is refused, at once and with 503."""
    load = replace(drill.load, rate=drill.load.rate * drill.config.overload, seconds=drill.config.load_s / 2)
    answers = run_load(load)
    shed = answers.failed.get(503, 0)
    console.print(
        f"overload: {len(answers.ms)} answered, {shed} refused, p99 {answers.percentile(99):.0f} ms"
    )
    return {
        "overload_answered": len(answers.ms),
        "overload_refused": shed,
        "overload_other_errors": answers.errors - shed,
        "overload_p99_ms": answers.percentile(99),
    }


def _lost_events(rig: StreamRig, answers: Answers) -> int:
    """Events answered with 202 that the log does not have in the end."""
    missing = set(answers.accepted_events)
    for partition in range(PARTITIONS):
        rig.source.seek(Topic.EVENTS, partition, 0)
    deadline = time.monotonic() + 60
    while missing and time.monotonic() < deadline:
        missing -= {orjson.loads(record.value)["event_id"] for record in rig.source.poll(0.5, 1_000)}
    return len(missing)
