"""The driver: claims, queries from the stored offsets, and what makes it start another one. Spark is a fake."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import pytest

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_DAY, Topic
from recsys.features.definitions import FEATURES
from recsys.observability.worker_report import read_report
from recsys.store.base import StoreConfig
from recsys.store.memory import MemoryFeatureStore
from streaming.settings import StreamSettings
from streaming.spark import engine as engine_module
from streaming.spark import tasks
from streaming.spark.engine import SparkEngine
from streaming.worker.applier import Applier
from tests.memory_event_log import MemoryEventLog
from tests.streaming.spark.fake_spark import AskedSource, FakeRows, FakeSpark
from tests.streaming.worker.test_feature_worker import (
    CONFIG,
    EVERY,
    PARTITIONS,
    T0,
    FaultyLog,
    FaultyStore,
    applied_up_to_the_end,
    assert_holds,
    drain,
    make_events,
    new_store,
    new_worker,
    reasons,
    send,
    wait_for,
)

QUICK = replace(CONFIG, fenced_pause_s=0.01, heartbeat_s=0.02, report_s=0.0, check_s=0.02)


class Rig:
    """A log and a store in memory, and engines over them."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, log: MemoryEventLog, store: MemoryFeatureStore
    ) -> None:
        self.log, self.store, self.spark = log, store, FakeSpark(log)
        monkeypatch.setattr(tasks, "open_applier", lambda settings: Applier(store, log))
        monkeypatch.setattr(engine_module, "_LOOK_S", 0.005)

    def engine(self, accept_gap: bool = False) -> SparkEngine:
        source = AskedSource(self.log, accept_gap)
        return SparkEngine(self.spark, StreamSettings(), QUICK, self.store, source)  # type: ignore[arg-type]

    @contextmanager
    def running(self) -> Iterator[SparkEngine]:
        engine, stop = self.engine(), threading.Event()
        thread = threading.Thread(target=engine.run, args=(stop,))
        thread.start()
        try:
            yield engine
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    def caught_up(self) -> bool:
        return applied_up_to_the_end(self.store, self.log)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch, MemoryEventLog(PARTITIONS), new_store())


def test_every_event_is_applied_and_the_rest_is_a_dead_letter(rig: Rig) -> None:
    events = make_events(400)
    with rig.running() as engine:
        for first in range(0, 400, 100):
            send(rig.log, events[first : first + 100])
            rig.log.append(Topic.EVENTS, "u1", b"poison")
            assert wait_for(rig.caught_up)
        assert wait_for(lambda: "lag" in str(rig.store.reports()))
        report = read_report(rig.store.reports()[engine.claims.name])
        assert report is not None and report.partitions == len(EVERY)
    assert_holds(rig.store, events)
    assert reasons(rig.log) == ["json"] * 4
    assert len(rig.spark.queries) == 1
    totals = engine.metrics.totals()
    assert (totals["events_applied"], totals["dead_letters_poison"]) == (400, 4)
    assert rig.store.reports() == {}  # it has left


def test_what_is_late_is_decided_across_micro_batches(rig: Rig) -> None:
    click = replace(make_events(1)[0], event_time_ms=T0 + 2 * MS_PER_DAY)
    late = replace(click, event_id="late", event_time_ms=T0)
    with rig.running():
        for event in (click, late):
            send(rig.log, [event])
            assert wait_for(rig.caught_up)
    assert_holds(rig.store, [click])
    assert reasons(rig.log) == ["late"]


def test_engines_take_over_from_each_other_at_the_stored_offsets(rig: Rig) -> None:
    events = make_events(300)
    send(rig.log, events[:100])
    before = new_worker(rig.store, rig.log)
    drain(before, rig.log.source())
    send(rig.log, events[100:200])
    with rig.running() as spark:
        assert wait_for(rig.caught_up)
    send(rig.log, events[200:])
    after = new_worker(rig.store, rig.log)
    drain(after, rig.log.source())
    assert_holds(rig.store, events)
    for worker in (before, spark, after):
        totals = worker.metrics.totals()
        assert totals["events_applied"] == 100
        assert totals.get("events_skipped", 0) == totals.get("events_duplicate", 0) == 0


def test_it_shares_the_partitions_with_workers(rig: Rig) -> None:
    def read() -> set[int]:
        claims = dict(engine.claims.held)
        return {number for _, number in claims}

    with rig.running() as engine:
        assert wait_for(lambda: read() == set(range(PARTITIONS)))
        assert wait_for(lambda: "zz" in rig.store.workers("zz", 60_000) and len(read()) == 2)
        assert wait_for(lambda: engine._reads == engine.claims.held.keys())
        rig.store.leave("zz")
        send(rig.log, events := make_events(200))
        assert wait_for(rig.caught_up)
    assert_holds(rig.store, events)


def test_a_partition_that_another_has_claimed_is_claimed_back(rig: Rig) -> None:
    """Its tasks are fenced, and the query starts again."""
    events = make_events(300)
    with rig.running() as engine:
        send(rig.log, events[:100])
        assert wait_for(rig.caught_up)
        rig.store.claim(Topic.EVENTS, 1, rig.log.log_id(Topic.EVENTS))
        send(rig.log, events[100:])
        assert wait_for(rig.caught_up)
    assert_holds(rig.store, events)
    totals = engine.metrics.totals()
    assert totals["refused_batches_fenced"] > 0
    assert totals["events_applied"] == 300
    assert len(rig.spark.queries) > 1


def test_what_the_store_has_lost_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class ForgetfulStore(MemoryFeatureStore):
        def forget(self) -> None:
            self.__init__(FEATURES, StoreConfig(PARTITIONS))  # type: ignore[misc]

    store = ForgetfulStore(FEATURES, StoreConfig(PARTITIONS))
    rig, events = Rig(monkeypatch, MemoryEventLog(PARTITIONS), store), make_events(90)
    send(rig.log, events)
    with rig.running():
        assert wait_for(rig.caught_up)
        store.forget()
        assert wait_for(rig.caught_up)
    assert_holds(store, events)


@pytest.mark.parametrize("seed", range(4))
def test_faults_neither_lose_nor_duplicate_events(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    log, store, events = FaultyLog(rng), FaultyStore(rng, rate=0.1), make_events(600, seed)
    rig = Rig(monkeypatch, log, store)
    sent = events + rng.sample(events, 60)  # some twice
    rng.shuffle(sent)
    with rig.running() as engine:
        for n in range(0, 660, 60):
            send(log, sent[n : n + 60])
            log.append(Topic.EVENTS, "u1", b"poison")
            log.mark(Topic.EVENTS, n % PARTITIONS)
        assert wait_for(lambda: engine.metrics.totals()["outages"] > 3)
        store.heal()
        assert wait_for(rig.caught_up)
    assert_holds(store, events)
    assert len(reasons(log)) == 11


def test_a_query_that_fails_is_started_again(rig: Rig) -> None:
    """Kafka does not answer the driver."""
    send(rig.log, events := make_events(50))
    rig.spark.failing = 2
    with rig.running() as engine:
        assert wait_for(rig.caught_up)
    assert_holds(rig.store, events)
    assert engine.metrics.totals()["outages"] == 2


def test_whatever_fails_in_a_task_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka does not answer an executor, an executor is lost, a batch cannot be read."""
    outcomes = iter([OSError("Received exception when fetching the next record from events-0")] * 2)

    def open_applier(settings: StreamSettings) -> Applier:
        for error in outcomes:
            raise error
        return Applier(rig.store, rig.log)

    monkeypatch.setattr(tasks, "open_applier", open_applier)
    send(rig.log, events := make_events(50))
    with rig.running() as engine:
        assert wait_for(rig.caught_up)
    assert_holds(rig.store, events)
    assert engine.metrics.totals()["outages"] == 2


def test_after_a_micro_batch_that_failed_no_claim_is_held(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query's position is ahead of the store then: nothing may take it for what has been applied."""
    send(rig.log, make_events(50))
    engine = rig.engine()
    engine.claims.share(engine._source)
    engine.claims.claim(engine._source)
    monkeypatch.setattr(FakeRows, "collect", raise_error)
    engine._apply(FakeRows([rig.log.read(Topic.EVENTS, 0, 0, 50)]), engine._queries)
    assert not engine.claims.held


def raise_error(rows: FakeRows) -> NoReturn:
    raise OSError("a job was aborted")


def test_markers_of_transactions_are_read_and_a_replaced_log_is_another(rig: Rig) -> None:
    with rig.running():
        send(rig.log, events := make_events(60))
        rig.log.mark(Topic.EVENTS, 0)
        rig.log.mark(Topic.ITEMS, 1)
        assert wait_for(rig.caught_up)
        rig.log.lose()
        send(rig.log, events)
        assert wait_for(rig.caught_up)
    assert_holds(rig.store, events)


def test_a_gap_ends_the_engine_unless_it_is_accepted(rig: Rig) -> None:
    events = make_events(300)
    send(rig.log, events[:150])
    drain(new_worker(rig.store, rig.log), rig.log.source())
    where = (Topic.EVENTS, 0)
    first = rig.log.end_offset(*where)
    send(rig.log, events[150:])
    rig.log.delete_before(*where, first + 5)
    refused = rig.engine()
    with pytest.raises(InvalidData, match="--accept-gap"):
        refused.run(threading.Event())
    refused.claims.leave()
    engine, stop = rig.engine(accept_gap=True), threading.Event()
    thread = threading.Thread(target=engine.run, args=(stop,))
    thread.start()
    assert wait_for(rig.caught_up)
    stop.set()
    thread.join()
    assert engine.metrics.totals()["lost_events_0"] == 5
    assert engine.metrics.totals()["events_applied"] == 145


def test_another_number_of_partitions_ends_the_engine(rig: Rig) -> None:
    rig.log.add_partitions(1)
    with pytest.raises(InvalidConfig, match="recsys topics grow"):
        rig.engine().run(threading.Event())
