"""`recsys bench stream`: throughput of one feature worker, and how soon an event is a readable feature.

Everything is real and embedded: lake → replay → Kafka → `recsys stream worker` → Redis. Measured are:

0. idle: what worker and broker take while nothing happens;
1. replay: a lake of `events` events into the log;
2. sustained: one worker starts on that full log; events per second from its first batch to its last;
3. freshness: `rate` events per second from another process, with a probe every `probe_every_s`; from handing a probe to
   the log until a reader of the change stream has read its item's new state. The worker's lag is sampled throughout.
   The first and the last quarter of the probes are also reported, because fetches of the broker in memory take longer
   with every batch in its log.
"""

import asyncio
import itertools
import json
import multiprocessing
import statistics
import threading
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from infra.evaluation.benchmarks.process_cost import cpu_time, tree_cpu_s
from infra.evaluation.load.traffic import drive, kafka_target, synthetic_items, traffic_events
from infra.evaluation.stream_rig import StreamRig
from infra.evaluation.timing import percentiles_ms
from recsys.contracts.events import Event, new_id
from recsys.contracts.types import EventType, Item, Topic
from recsys.kafka_connection import KafkaConnection
from recsys.lake.lake import EVENTS, day_writer, events_table
from recsys.result import Goal, Result
from streaming.log import KafkaSink
from streaming.replay import Position, replay
from streaming.settings import Engine

_WARM_UP_S = 2.0
_CATCH_UP_S = 600.0

GOALS = {
    Engine.WORKER: {
        "idle_percent": Goal("<=", 5),
        "sustained_events_per_s": Goal(">=", 30_000),
        "freshness_p99_ms": Goal("<=", 50),
        "lag_max_s": Goal("<=", 1.0),
        "not_applied_once": Goal("==", 0),
    },
    Engine.SPARK: {"freshness_p99_ms": Goal("<=", 1_500), "not_applied_once": Goal("==", 0)},
}


@dataclass(frozen=True)
class StreamBench:
    """`events` for replay and throughput; then `rate` events per second for `seconds`."""

    seed: int = 0
    events: int = 200_000
    users: int = 50_000
    items: int = 20_000
    rate: float = 5_000.0
    seconds: float = 20.0
    probe_every_s: float = 0.02
    settle_s: float = 12.0  # without events before *idle* is measured
    idle_s: float = 15.0
    engine: Engine = Engine.WORKER

    @classmethod
    def quick(cls, seed: int) -> "StreamBench":
        return cls(seed=seed, events=20_000, rate=1_000.0, seconds=4.0, idle_s=5.0)


def run(config: StreamBench) -> Result:
    """Run all measurements on one set of servers."""
    items = synthetic_items(config.items, config.seed)
    with StreamRig(engine=config.engine) as rig:
        idle = _idle(rig, config)
        replayed = _replay(rig, config, items)
        worker = rig.start_worker()
        rig.wait_until(lambda: rig.applied() > 0, _CATCH_UP_S, "the worker's first batch")
        servers = {"worker": worker.pid, "redis": rig.redis.pid, "kafka": rig.kafka.pid}
        cpu_before = {name: tree_cpu_s(pid) for name, pid in servers.items()}
        first, started = rig.applied(), time.monotonic()
        rig.wait_until(lambda: rig.applied() >= config.events, _CATCH_UP_S, "applying the replayed events")
        applied, seconds = config.events - first, time.monotonic() - started
        cpu = {n: (tree_cpu_s(pid) - cpu_before[n]) / applied * 1e6 for n, pid in servers.items()}
        freshness, lags, sent = _live(rig, config)
        total = config.events + sent
        rig.wait_until(lambda: rig.applied() >= total, _CATCH_UP_S, "applying the live events")
        rig.stop_worker(worker)
        totals = json.loads(worker.log.read_text(encoding="utf-8").splitlines()[-1])
    quarter = len(freshness) // 4
    figures = {
        **{f"idle_{name}_percent": percent for name, percent in idle.items()},
        "idle_percent": sum(idle.values()),
        "replay_events_per_s": replayed,
        "sustained_events_per_s": applied / seconds,
        **{f"{name}_cpu_us_per_event": microseconds for name, microseconds in cpu.items()},
        "live_events_per_s": config.rate,
        **percentiles_ms("freshness", freshness),
        "freshness_p99_first_quarter_ms": float(np.percentile(freshness[: quarter + 1], 99)),
        "freshness_p99_last_quarter_ms": float(np.percentile(freshness[-quarter - 1 :], 99)),
        "probes": len(freshness),
        "lag_median_records": statistics.median(lags),
        "lag_max_records": max(lags),
        "lag_max_s": max(lags) / config.rate,
        "not_applied_once": abs(total - totals["events_applied"]) + totals.get("dead_letters_poison", 0),
    }
    return Result("bench stream", config.seed, figures, GOALS[config.engine])


def _idle(rig: StreamRig, config: StreamBench) -> dict[str, float]:
    """Percent of a core that worker and broker take while nothing happens."""
    worker = rig.start_worker()
    time.sleep(config.settle_s)
    with cpu_time(worker=worker.pid, kafka=rig.kafka.pid) as cpu:
        time.sleep(config.idle_s)
    rig.stop_worker(worker)
    return {name: 100 * seconds / config.idle_s for name, seconds in cpu.items()}


def _replay(rig: StreamRig, config: StreamBench, items: list[Item]) -> float:
    """Events per second from the lake into the log."""
    start_ms = time.time_ns() // 1_000_000 - config.events
    ticks = itertools.count(start_ms)
    events = traffic_events(items, config.users, seed=config.seed, now_ms=lambda: next(ticks))
    with day_writer(rig.home / "lake", EVENTS, "bench") as writer:
        while writer.rows < config.events:
            writer.write(
                events_table(list(itertools.islice(events, min(50_000, config.events - writer.rows))))
            )
    position = Position(rig.home / "replay.json", rig.source.log_id(Topic.EVENTS))
    return replay(rig.home / "lake", rig.sink, position).events_per_s


def _live(rig: StreamRig, config: StreamBench) -> tuple[list[float], list[int], int]:
    """Freshness of each probe in milliseconds, the lag over time in records, and the number of events sent."""
    context = multiprocessing.get_context("spawn")
    generator = context.Process(target=_generate, args=(rig.kafka.connection, config), daemon=True)
    before = rig.appended()
    probes: dict[str, float] = {}
    freshness: list[float] = []
    stop = threading.Event()
    reader = threading.Thread(target=_read_probes, args=(rig, probes, freshness, stop))
    reader.start()
    generator.start()
    rig.wait_until(lambda: rig.appended() > before, 60, "live traffic")
    time.sleep(_WARM_UP_S)
    lags: list[int] = []
    began = time.monotonic()
    while (now := time.monotonic()) - began < config.seconds:
        item = f"probe-{len(probes)}"
        event = Event(new_id(), EventType.CLICK, item, item, time.time_ns() // 1_000_000)
        probes[item] = time.monotonic()
        rig.sink.append(Topic.EVENTS, item, msgspec.json.encode(event.to_dict()))
        if len(probes) % 25 == 0:
            applied = rig.applied()  # read first, so that what arrives meanwhile counts as lag
            lags.append(rig.appended() - applied)
        time.sleep(max(0.0, now + config.probe_every_s - time.monotonic()))
    generator.join()
    rig.wait_until(lambda: len(freshness) == len(probes), 60, "the last probes")
    stop.set()
    reader.join()
    return freshness, lags, rig.appended() - before


def _generate(kafka: KafkaConnection, config: StreamBench) -> None:
    """Runs in its own process, so that it does not slow the probes."""
    sink = KafkaSink(kafka)
    events = traffic_events(synthetic_items(config.items, config.seed), config.users, seed=config.seed + 1)
    count = int(config.rate * (config.seconds + _WARM_UP_S))
    asyncio.run(drive(kafka_target(sink), events, config.rate, count))
    sink.flush(60.0)
    sink.close()


def _read_probes(
    rig: StreamRig, probes: dict[str, float], freshness: list[float], stop: threading.Event
) -> None:
    """Follow the change stream as serving does, and read each probe's item."""
    cursor, _ = rig.store.changed_items("", 0)
    while not stop.is_set():
        cursor, changed = rig.store.changed_items(cursor, 100)
        mine = [item for item in changed or () if item in probes]
        for item, state in zip(mine, rig.store.items(mine), strict=True):
            if state.cells:
                freshness.append((time.monotonic() - probes[item]) * 1_000)
