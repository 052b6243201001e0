"""A pool of real worker processes on a real broker and Redis; and what it does when workers cannot run."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from typer import BadParameter

from infra.capacity.autoscale.local import worker_pool
from infra.capacity.autoscale.policy import Policy
from infra.capacity.autoscale.pool import Backlog, WorkerPool
from infra.cli.commands.stream import parse_limits
from infra.local.memory_kafka import MemoryKafka
from infra.local.process import ChildProcess
from infra.sizing_table import read_table
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import Batch, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink
from streaming.settings import StreamSettings
from tests.memory_event_log import MemoryEventLog
from tests.streaming.worker.test_feature_worker import assert_holds, make_events

PARTITIONS = 4


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
def test_a_backlog_grows_the_pool_idleness_shrinks_it_and_every_event_counts_once(
    kafka_broker: MemoryKafka, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"HOME": str(tmp_path), "REDIS_URL": redis_url, "PARTITIONS": str(PARTITIONS)}
    for name, value in {**environ, "KAFKA_BOOTSTRAP": kafka_broker.bootstrap}.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)
    monkeypatch.setattr("infra.capacity.autoscale.pool._WINDOW_S", 3.0)
    events = make_events(600)
    with (
        closing(KafkaSink(kafka_broker.connection)) as sink,
        worker_pool(StreamSettings(), 1, 2, read_table()) as pool,
    ):
        # ten events a second are a lot for these workers, and two seconds are the evening
        pool.policy = replace(
            pool.policy, rate=10.0, drain_s=5.0, trend_s=1.0, horizon_s=0.0, down_after_s=2.0
        )

        def send(first: int, last: int) -> None:
            for event in events[first:last]:
                sink.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))
            sink.flush(30)

        def step_until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 120
            while not condition():
                assert time.monotonic() < deadline, pool
                pool.step(time.monotonic())

        assert pool.size == 1
        send(0, 400)
        step_until(lambda: pool.size == 2)
        killed = pool.pids[0]
        os.kill(killed, signal.SIGKILL)
        send(400, 600)
        step_until(lambda: pool.replaced == 1 and killed not in pool.pids and len(pool.pids) == 2)
        step_until(lambda: pool.backlog.look() == (600, 0))
        step_until(lambda: pool.size == 1)
        (left,) = pool.pids
    with pytest.raises(ProcessLookupError):
        os.kill(left, 0)
    with closing(RedisFeatureStore(redis_url, FEATURES, StoreConfig(PARTITIONS))) as store:
        assert_holds(store, events)


def test_the_backlog_is_that_of_the_partition_that_is_furthest_behind() -> None:
    log, store = MemoryEventLog(2), MemoryFeatureStore(FEATURES, StoreConfig(2))
    for user in range(40):
        log.append(Topic.EVENTS, f"u{user}", b"")
        log.append(Topic.IMPRESSIONS, f"u{user}", b"")
    source = log.source()
    ends = [source.end_offset(Topic.EVENTS, partition) for partition in range(2)]
    backlog = Backlog(source, store, {Topic.EVENTS: 1.0, Topic.IMPRESSIONS: 20.0})
    assert backlog.look() == (40 * 21, max(ends) * 21)
    claimed = store.claim(Topic.EVENTS, 0, source.log_id(Topic.EVENTS))
    store.apply(Batch(Topic.EVENTS, 0, claimed.epoch, 0, ends[0], 0, (), []))
    assert backlog.look()[1] == max(ends[0] * 20, ends[1] * 21)


def pool_of(script: str, folder: Path) -> WorkerPool:
    """A pool whose workers run a line of Python, with nothing to do."""
    log, store = MemoryEventLog(1), MemoryFeatureStore(FEATURES, StoreConfig(1))
    backlog = Backlog(log.source(), store, {Topic.EVENTS: 1.0})
    command = [sys.executable, "-S", "-c", script]
    return WorkerPool(Policy(1, 1, 1.0), backlog, lambda n: ChildProcess(command, folder / f"{n}.log"))


def ended(pool: WorkerPool) -> None:
    (pid,) = pool.pids
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_workers_that_refuse_their_settings_end_the_pool_with_the_reason(tmp_path: Path) -> None:
    with pool_of("print('error: no such namespace'); raise SystemExit(2)", tmp_path) as pool:
        ended(pool)
        with pytest.raises(Unavailable, match="a worker cannot run: .*no such namespace"):
            pool.step(time.monotonic())


def test_a_worker_that_crashes_is_started_again_later_each_time(tmp_path: Path) -> None:
    with pool_of("raise SystemExit(1)", tmp_path) as pool:
        for number, wait_s in enumerate((0.5, 1.0, 2.0), 1):
            ended(pool)
            now = time.monotonic()
            pool.step(now)
            assert pool.replaced == number
            pool.step(now + 0.9 * wait_s)
            assert pool.pids == []
            pool.step(now + wait_s)
            assert len(pool.pids) == 1


@pytest.mark.parametrize("text", ["4:1", "0:2", "2", "1:", "a:b", "-1:2", "1:2:3", ""])
def test_limits_are_two_numbers_in_order(text: str) -> None:
    with pytest.raises(BadParameter, match="such as 1:4"):
        parse_limits(text)


def test_without_an_answer_the_number_stays(tmp_path: Path) -> None:
    class Away(Backlog):
        def look(self) -> tuple[float, float]:
            raise Unavailable("Kafka is away")

    with pool_of("import time; time.sleep(60)", tmp_path) as pool:
        pool.policy = Policy(1, 4, 1.0)
        pool.backlog = Away.__new__(Away)
        pool.step(time.monotonic())
        assert pool.size == 1
