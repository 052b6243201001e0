"""`recsys drill stream`: fault-injection test of the stream; every cell is compared with a recomputation of the log.

Rounds: our workers on a Redis with an append-only file; the same on one with snapshots, or both on servers that fail
over instead; and the control (offsets only in Kafka), which must come out wrong, or the test proves nothing. Each round
sends the same seeded log at a steady rate, with duplicates, out-of-order and late events and poison, and injects each
kind of fault several times, each after the offsets have advanced since the last.
"""

import itertools
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial

import msgspec
import numpy as np
from kafka import KafkaConsumer, TopicPartition

from infra.evaluation.fault_injection import control
from infra.evaluation.fault_injection.verify import Differences, Expected, differences, expected_states
from infra.evaluation.load.traffic import synthetic_items
from infra.evaluation.stream_rig import EVERY, TOPICS, Offsets, StreamRig, freeze, stopped
from infra.local.process import ChildProcess
from infra.local.redis import Persistence
from infra.local.redis_replicas import Failover, ReplicatedRedis
from infra.terminal import console
from recsys.contracts.event_log import EventSink
from recsys.contracts.events import Event, derived_id, item_context
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.types import DEEP, MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, EventType, Item, Topic
from recsys.features.definitions import FEATURES
from recsys.result import Goal, Result
from streaming.log.dead_letter import read_dead_letters
from streaming.settings import Engine

WORKERS = 2
_CONTROL = (sys.executable, "-m", "infra.evaluation.fault_injection.control")
_TIMEOUT_S = 300.0
_TICK_S = 0.1
_NEVER = ("wrong_cells", "lost", "doubled", "wrong_sequences", "dead_letters_missing", "partitions_stopped")
# longer than the group's session timeout: the broker gives its partitions to the other worker
_FROZEN_S = 9.0
_STORM = 3  # times that a worker joins and leaves
_CUT = 100  # records that a master applies alone before it dies
_OF_ALL = "recsys:{c}:catalogue"  # on a cluster, its master has partitions, too


class Fault(StrEnum):
    KILL_WORKER = "kill_worker"  # kill -9, and another starts
    FREEZE_WORKER = "freeze_worker"  # SIGSTOP until it has lost its partitions, then SIGCONT
    KILL_REDIS = "kill_redis"  # kill -9, and it starts from what is on disk, or a replica takes its place
    REBALANCE = "rebalance"  # a third worker joins and leaves repeatedly
    KILL_BROKER = "kill_broker"  # kill -9, and it starts from what is on disk; only where its log is there


@dataclass(frozen=True)
class StreamDrill:
    """At least `records` at `rate` per second; each fault `repeats` times, `advance` records after the last one."""

    seed: int = 0
    records: int = 60_000
    rate: float = 800.0
    repeats: int = 3
    advance: int = 2_000
    users: int = 2_000
    items: int = 500
    persistences: tuple[Persistence, ...] = (Persistence.AOF, Persistence.RDB)
    engine: Engine = Engine.WORKER
    failover: Failover | None = None  # instead of `persistences`

    @classmethod
    def quick(
        cls, seed: int, engine: Engine = Engine.WORKER, failover: Failover | None = None
    ) -> "StreamDrill":
        return cls(seed, records=6_000, rate=400.0, repeats=1, advance=800, engine=engine, failover=failover)


@dataclass
class Outcome:
    expected: Expected
    differences: Differences
    dead_letters: int
    recovery_s: dict[Fault, list[float]]
    fenced: int
    gaps: int
    outages: int
    partitions_stopped: int
    taken_back: list[int]  # records by which offsets went back, of each failover


def run(config: StreamDrill) -> Result:
    """Run all rounds, one after the other."""
    figures: dict[str, float] = {}
    goals: dict[str, Goal] = {}
    for servers in (config.failover,) if config.failover else config.persistences:
        console.print(f"{servers}: {config.records} records, each fault {config.repeats} times")
        found = _round(config, servers)
        figures |= _figures(f"{servers}_", found)
        goals |= {f"{servers}_{name}": Goal("==", 0) for name in _NEVER}
        if config.failover:
            goals[f"{servers}_taken_back_max"] = Goal(">", 0)  # else no failover has lost anything
    console.print("control: the same with offsets in Kafka only")
    figures |= _figures("control_", _round(config, Persistence.AOF, is_control=True))
    goals["control_wrong_cells"] = Goal(">", 0)
    return Result("drill stream", config.seed, figures, goals)


def _figures(prefix: str, found: Outcome) -> dict[str, float]:
    figures: dict[str, float] = {
        "events": found.expected.events,
        "duplicates_sent": found.expected.duplicates,
        **asdict(found.differences),
        "dead_letters_expected": found.expected.dead_letters,
        "dead_letters_distinct": found.dead_letters,
        "dead_letters_missing": abs(found.expected.dead_letters - found.dead_letters),
        "fenced": found.fenced,
        "gaps": found.gaps,
        "outages": found.outages,
        "partitions_stopped": found.partitions_stopped,
    }
    for fault, seconds in found.recovery_s.items():
        figures[f"{fault}_recovery_max_s"] = max(seconds)
    if found.taken_back:
        figures["taken_back_max"] = max(found.taken_back)
    return {prefix + name: value for name, value in figures.items()}


# --- one round --------------------------------------------------------------------------------------------------


def _round(config: StreamDrill, servers: Persistence | Failover, is_control: bool = False) -> Outcome:
    persistence = servers if isinstance(servers, Persistence) else Persistence.NONE
    failover = servers if isinstance(servers, Failover) else None
    with StreamRig(persistence, engine=config.engine, failover=failover) as rig, ExitStack() as closing:
        offsets = closing.enter_context(_committed(rig)) if is_control else rig.offsets
        crew = _Crew(rig, _CONTROL if is_control else ())
        done = threading.Event()
        sender = threading.Thread(target=_send, args=(rig.sink, config, done), daemon=True)
        sender.start()
        # not tried with the control's consumer group
        can_kill_broker = rig.kafka.is_durable and not is_control
        faults = [fault for fault in Fault if fault is not Fault.KILL_BROKER or can_kill_broker]
        recovery: dict[Fault, list[float]] = {fault: [] for fault in faults}
        for fault in faults * config.repeats:
            # a fault proves something only while offsets advance
            due = sum(offsets().values()) + config.advance
            rig.wait_until(lambda: sum(offsets().values()) >= due, _TIMEOUT_S, f"progress before {fault}")  # noqa: B023
            before, began = rig.ends(), time.monotonic()
            crew.inject(fault)
            rig.wait_until(lambda: _passed(offsets(), before), _TIMEOUT_S, f"recovery from {fault}")  # noqa: B023
            recovery[fault].append(time.monotonic() - began)
            console.print(f"  {fault} after {due} records: caught up in {recovery[fault][-1]:.1f} s")
        done.set()
        sender.join()
        rig.sink.flush(60.0)
        ends = rig.ends()
        rig.wait_until(lambda: _passed(offsets(), ends), _TIMEOUT_S, "the end of the log")
        crew.stop()
        expected = expected_states(rig.source, TOPICS, FEATURES)
        logs = rig.worker_logs()
        return Outcome(
            expected=expected,
            differences=differences(expected, rig.store),
            dead_letters=sum(1 for _ in read_dead_letters(rig.source)),
            recovery_s=recovery,
            fenced=logs.count("batch fenced"),
            gaps=logs.count("batch gap"),
            outages=logs.count("restarts from the stored offsets"),
            partitions_stopped=rig.partitions_stopped(),
            taken_back=crew.taken_back,
        )


def _passed(offsets: Offsets, ends: Offsets) -> bool:
    return all(offsets.get(where, -1) >= end for where, end in ends.items())


@contextmanager
def _committed(rig: StreamRig) -> Iterator[Callable[[], Offsets]]:
    """The control's progress, which only Kafka knows; polled twice a second at most."""
    consumer = KafkaConsumer(bootstrap_servers=rig.kafka.bootstrap, group_id=control.GROUP)
    in_kafka, asked, found = rig.kafka.connection.in_kafka, -math.inf, Offsets()

    def offsets() -> Offsets:
        nonlocal asked, found
        if time.monotonic() - asked > 0.5:
            found = {
                (topic, n): consumer.committed(TopicPartition(in_kafka(topic), n)) or 0 for topic, n in EVERY
            }
            asked = time.monotonic()
        return found

    try:
        yield offsets
    finally:
        consumer.close()


def _has_claimed(worker: ChildProcess) -> bool:
    return "claimed" in worker.log.read_text(encoding="utf-8")


class _Crew:
    """The workers of a round, and their faults."""

    def __init__(self, rig: StreamRig, command: tuple[str, ...]) -> None:
        self._rig = rig
        self._command = command
        self.taken_back: list[int] = []
        self._workers = [rig.start_worker(*command) for _ in range(WORKERS)]

    def inject(self, fault: Fault) -> None:
        match fault:
            case Fault.KILL_WORKER:
                self._rig.kill_worker(self._workers.pop(0))
                self._workers.append(self._rig.start_worker(*self._command))
            case Fault.FREEZE_WORKER:
                freeze(self._workers[0].pid, _FROZEN_S)
            case Fault.KILL_REDIS if self._rig.replicated:
                self._fail_over(self._rig.replicated)
            case Fault.KILL_REDIS:
                self._rig.redis.kill()
                self._rig.redis.start()
            case Fault.KILL_BROKER:
                self._rig.kafka.kill()
                self._rig.kafka.start()
            case Fault.REBALANCE:
                for _ in range(_STORM):
                    third = self._rig.start_worker(*self._command)
                    self._rig.wait_until(partial(_has_claimed, third), _TIMEOUT_S, "a third worker")
                    self._rig.stop_worker(third)

    def _fail_over(self, servers: ReplicatedRedis) -> None:
        """The master dies with writes that no replica has."""
        rig, master = self._rig, servers.master_of(_OF_ALL)
        servers.cut(master)
        due = rig.applied() + _CUT
        rig.wait_until(lambda: rig.applied() >= due, _TIMEOUT_S, "writes that no replica has")
        with stopped(worker.pid for worker in self._workers):  # else they apply it again before it is counted
            before = rig.offsets()
            servers.fail_over(master)
            rig.wait_until(lambda: bool(rig.offsets()), _TIMEOUT_S, "the new master")
            after = rig.offsets()
        self.taken_back.append(sum(max(0, before[where] - after[where]) for where in before))
        servers.rejoin(master)

    def stop(self) -> None:
        for worker in self._workers:
            self._rig.stop_worker(worker)


# --- the log ----------------------------------------------------------------------------------------------------


def _send(sink: EventSink, config: StreamDrill, done: threading.Event) -> None:
    """Send records at the configured rate until every fault is over, and at least as many as configured.

    Records of a tick go together: the broker in memory gets slower with every batch in its log.
    """
    started, sent = time.monotonic(), 0
    records = drill_records(config)
    while sent < config.records or not done.is_set():
        due = int((time.monotonic() - started) * config.rate)
        for topic, key, value in itertools.islice(records, due - sent):
            sink.append(topic, key, value)
        sent = due
        time.sleep(_TICK_S)


def drill_records(config: StreamDrill) -> Iterator[tuple[Topic, str, bytes]]:
    """Endless records (topic, key, value): mostly single events, some lists of impressions, some invalid."""
    rng = random.Random(config.seed)  # noqa: S311
    items = synthetic_items(config.items, config.seed)
    start_ms = time.time_ns() // 1_000_000 - 3 * MS_PER_HOUR
    recent: list[tuple[Topic, str, bytes]] = []
    for n in itertools.count():
        fate = rng.random()
        if recent and fate < 0.03:  # a duplicate
            yield rng.choice(recent)
            continue
        user = f"user-{int(config.users * rng.random() ** 2)}"
        # out of order by up to ten minutes; a few are more than a day late
        time_ms = start_ms + min(2 * MS_PER_HOUR, n * MS_PER_HOUR // config.records)
        time_ms -= rng.randrange(10 * MS_PER_MINUTE)
        if fate < 0.035:
            yield Topic.EVENTS, user, rng.choice([b"{", b"null", b'{"type": "click"}', b"\xff"])
        elif fate < 0.04:
            yield Topic.EVENTS, user, _event(rng, n, user, time_ms - 2 * MS_PER_DAY, items)
        else:
            topic, make = (Topic.IMPRESSIONS, _impression) if fate < 0.1 else (Topic.EVENTS, _event)
            record = topic, user, make(rng, n, user, time_ms, items)
            recent = [*recent[-99:], record]
            yield record


def _event(rng: random.Random, n: int, user: str, time_ms: int, items: Sequence[Item]) -> bytes:
    item = rng.choice(items)
    event = Event(
        event_id=derived_id(time_ms, "drill", n),
        type=rng.choice([kind for kind in EventType if kind is not EventType.IMPRESSION]),
        user_id=user,
        item_id=item.item_id,
        event_time_ms=time_ms,
        value=float(rng.randint(1, 5)),
        context=item_context({}, item.categories, item.creator),
    )
    return msgspec.json.encode(event.to_dict())


def _impression(rng: random.Random, n: int, user: str, time_ms: int, items: Sequence[Item]) -> bytes:
    shown = [
        ShownItem(item.item_id, position, rng.random(), categories=item.categories, creator=item.creator)
        for position, item in enumerate(rng.sample(items, 8))
    ]
    features = np.zeros((len(shown), 1), dtype=np.float32)
    ids = f"request-{n}", user, time_ms, "drill", FEATURES.fingerprint
    impression = Impression(*ids, shown, features, narrowed_from=DEEP if n % 5 else 0)
    # other producers may send JSON
    return impression_record(impression) if n % 2 else msgspec.json.encode(impression.to_dict())
