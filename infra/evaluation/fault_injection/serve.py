"""`recsys drill serve`: fault-injection test of the API.

A steady load asks for lists and sends events while one part after the other is killed, frozen, slowed, filled or
overloaded. For each fault: failed requests, p99 from when each was due, stages named as degraded, and how long after
the end of the fault the last failed or degraded answer came. The load does not retry, so it counts what the API did.
The official client, which retries, runs alongside while an API process is killed.

Every event that was answered with 202 must be in the log at the end. The broker in memory forgets its records, so that
count comes before it is killed; Apache Kafka (RECSYS_LOCAL_KAFKA=apache) is killed before the count.
"""

import shutil
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import orjson
import psutil

from infra.evaluation.benchmarks.load import Answers, Load, run_load
from infra.evaluation.benchmarks.serve import Api, api, prepare
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.evaluation.fault_injection.jumping_clock import JumpingClock
from infra.evaluation.fault_injection.retrying import RetryingClients
from infra.evaluation.fault_injection.slow_proxy import SlowProxy
from infra.evaluation.fault_injection.small_disk import SmallDisk
from infra.evaluation.stream_rig import PARTITIONS, StreamRig, freeze
from infra.terminal import console
from recsys.bundle import publish
from recsys.client import Client
from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import MS_PER_HOUR, MS_PER_SECOND, Topic
from recsys.result import Goal, Result

_WORKERS = 2
_USERS = 10_000
_CONNECTED_S = 2.0  # until the load's process has started and connected
_SLOW_S = 0.05
_JUMP_S = MS_PER_HOUR / MS_PER_SECOND
_DISK_BYTES = 4 << 20
_REFILL_S = 0.005
_UNFAILING = (
    *("calm", "redis_frozen", "redis_slow", "redis_killed", "broker_frozen", "broker_killed"),
    *("worker_killed", "broken_bundle", "clock_forward", "clock_back", "disk_full"),
)


@dataclass(frozen=True)
class ServeDrill:
    """`rate` requests per second; each fault lasts `fault_s` within a load of `load_s`."""

    seed: int = 0
    items: int = 20_000
    history_events: int = 50_000
    rate: float = 40.0
    load_s: float = 14.0
    fault_s: float = 3.0
    overload: float = 10.0

    @classmethod
    def quick(cls, seed: int) -> "ServeDrill":
        return cls(seed, items=4_000, history_events=10_000, rate=15.0, load_s=8.0, fault_s=2.0)


@dataclass
class _Drill:
    config: ServeDrill
    rig: StreamRig
    proxy: SlowProxy
    disk: SmallDisk
    clock: JumpingClock
    served: Api
    load: Load
    figures: dict[str, float] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)  # events that were answered with 202


def run(config: ServeDrill) -> Result:
    """Inject every fault, one after the other, into one system."""
    items = bench_items(config.items, config.seed)
    with ExitStack() as stack:
        rig = stack.enter_context(StreamRig())
        prepare(rig, items, _USERS, config.history_events, config.seed)
        proxy = stack.enter_context(SlowProxy(rig.redis.port))
        disk = stack.enter_context(SmallDisk(rig.home / "spool-disk", _DISK_BYTES))
        clock = JumpingClock(rig.home / "clock")
        settings = {
            "RECSYS_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "RECSYS_SPOOL": str(disk.folder / "spool"),
            "RECSYS_RESULT_CACHE_MS": "0",
            "RECSYS_BUNDLE_POLL_S": "0.2",
            **clock.environ,
        }
        served = stack.enter_context(api(rig, _WORKERS, **settings))
        load = Load(served.port, config.rate, config.load_s, _USERS, config.items, seed=config.seed)
        run_load(replace(load, seconds=config.load_s / 4))  # warm-up
        drill = _Drill(config, rig, proxy, disk, clock, served, load)
        _all_faults(drill)
    goals = {f"{fault}_errors": Goal("==", 0) for fault in _UNFAILING} | {
        "api_killed_client_errors": Goal("==", 0),
        "accepted_events_lost": Goal("==", 0),
        "partitions_stopped": Goal("==", 0),
        "overload_other_errors": Goal("==", 0),
        "overload_p99_over_calm": Goal("<=", 2),
        "broken_bundles_served": Goal("==", 0),
    }
    if drill.disk.real:  # else nothing was filled
        goals["disk_full_events_refused"] = Goal(">=", 1)
    return Result("drill serve", config.seed, drill.figures, goals)


def _all_faults(drill: _Drill) -> None:
    rig, pause_s, figures = drill.rig, drill.config.fault_s, drill.figures
    kill_worker = partial(rig.kill_worker, rig.workers[-1])
    _during(drill, "calm", lambda: None)
    _during(drill, "redis_frozen", lambda: freeze(rig.redis.pid, pause_s))
    _during(drill, "redis_slow", lambda: _slow(drill))
    _during(drill, "worker_killed", lambda: _restart(kill_worker, rig.start_worker, pause_s))
    _during(drill, "broken_bundle", lambda: _publish_broken(drill))
    _during(drill, "clock_forward", lambda: _jump(drill, _JUMP_S))
    _during(drill, "clock_back", lambda: _jump(drill, -_JUMP_S))
    _during(drill, "broker_frozen", lambda: freeze(rig.kafka.pid, pause_s))
    figures["disk_full_real"] = float(drill.disk.real)
    _during(drill, "disk_full", lambda: _fill_disk(drill))
    with RetryingClients(drill.served.url, drill.config.seed) as clients:
        _during(drill, "api_killed", lambda: _kill_one_worker(drill.served))
    figures["api_killed_client_calls"] = clients.calls
    figures["api_killed_client_errors"] = clients.errors
    drill.accepted += clients.accepted
    _overload(drill)
    _during(drill, "redis_killed", lambda: _restart(rig.redis.kill, rig.redis.start, pause_s))
    if rig.kafka.is_durable:
        _kill_broker(drill)
    figures["accepted_events"] = len(drill.accepted)
    figures["accepted_events_lost"] = _lost_events(rig, drill.accepted)
    if not rig.kafka.is_durable:
        _kill_broker(drill)
    figures["partitions_stopped"] = rig.partitions_stopped()


def _kill_broker(drill: _Drill) -> None:
    kafka, pause_s = drill.rig.kafka, drill.config.fault_s
    _during(drill, "broker_killed", lambda: _restart(kafka.kill, kafka.start, pause_s))


def _during(drill: _Drill, name: str, fault: Callable[[], None]) -> None:
    """Run a load with the fault in its middle (in this thread, which owns the child processes)."""
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
        f" degraded {answers.reasons or 0}, {answers.refused_events} events refused,"
        f" p99 {answers.percentile(99):.0f} ms"
    )
    if answers.errors > len(answers.ms):
        console.print(drill.served.process.log_tail(20), markup=False)
    drill.accepted += answers.accepted_events
    drill.figures |= {
        f"{name}_errors": answers.errors,
        f"{name}_error_rate": answers.errors / max(1, len(answers.ms) + answers.errors),
        f"{name}_events_refused": answers.refused_events,
        f"{name}_degraded": answers.degraded,
        **{f"{name}_degraded_{reason}": n for reason, n in sorted(answers.reasons.items())},
        f"{name}_p99_ms": answers.percentile(99),
        f"{name}_recovery_s": max([0.0, *late]),
    }


def _slow(drill: _Drill) -> None:
    drill.proxy.delay_s = _SLOW_S
    time.sleep(drill.config.fault_s)
    drill.proxy.delay_s = 0.0


def _jump(drill: _Drill, seconds: float) -> None:
    drill.clock.jump(seconds)
    time.sleep(drill.config.fault_s)
    drill.clock.jump(0.0)


def _fill_disk(drill: _Drill) -> None:
    """Keep the disk full, including blocks that the spool frees when a record is delivered."""
    deadline = time.monotonic() + drill.config.fault_s
    while time.monotonic() < deadline:
        drill.disk.fill()
        time.sleep(_REFILL_S)
    drill.disk.free()


def _restart(kill: Callable[[], object], start: Callable[[], object], pause_s: float) -> None:
    kill()
    time.sleep(pause_s)
    start()


def _kill_one_worker(served: Api) -> None:
    """Kill the busiest of the API's processes; its supervisor starts another."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    max(children, key=lambda p: p.memory_info().rss).kill()


def _publish_broken(drill: _Drill) -> None:
    """Break one byte of a bundle: the command must refuse to publish it, and if CURRENT names it, it is not served."""
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
        drill.figures["broken_bundles_served"] = float(client.bundles()["active"] != "bench")
    (bundles / "CURRENT").write_text("bench\n", encoding="utf-8")


def _overload(drill: _Drill) -> None:
    """Send ten times the load: the excess is refused at once, with 503."""
    load = replace(drill.load, rate=drill.load.rate * drill.config.overload, seconds=drill.config.load_s / 2)
    answers = run_load(replace(load, seed=zlib.crc32(b"overload")))
    shed = answers.failed.get(503, 0)
    console.print(
        f"overload: {len(answers.ms)} answered, {shed} refused, p99 {answers.percentile(99):.0f} ms"
    )
    drill.accepted += answers.accepted_events
    drill.figures |= {
        "overload_answered": len(answers.ms),
        "overload_answered_per_s": answers.per_s,
        "overload_refused": shed,
        "overload_other_errors": answers.errors - shed,
        "overload_degraded": answers.degraded,
        "overload_p99_ms": answers.percentile(99),
        "overload_p99_over_calm": answers.percentile(99) / drill.figures["calm_p99_ms"],
    }


def _lost_events(rig: StreamRig, accepted: list[str]) -> int:
    """Events that were answered with 202 and are not in the log."""
    missing = set(accepted)
    for partition in range(PARTITIONS):
        rig.source.seek(Topic.EVENTS, partition, 0)
    deadline = time.monotonic() + 60
    while missing and time.monotonic() < deadline:
        missing -= {orjson.loads(record.value)["event_id"] for record in rig.source.poll(0.5, 1_000)}
    return len(missing)
