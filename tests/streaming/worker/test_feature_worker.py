"""The worker's algorithm on an in-memory log and store, with injected faults."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import ClassVar

import httpx
import msgspec
import numpy as np
import pytest

from infra.local.process import free_port
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.contracts.event_log import HeldBack, Record, partition_of
from recsys.contracts.events import Event
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.merges import UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import GROWING
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Item, Topic, User
from recsys.features.definitions import FEATURES
from recsys.observability.worker_report import read_report
from recsys.store.base import Applied, Batch, FeatureStore, Outcome, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from streaming.acceptance import accept_item_change, accept_user_change
from streaming.log import Partition
from streaming.log.dead_letter import UNREADABLE, read_dead_letters
from streaming.loop_metrics import STUCK_S
from streaming.worker.claims import TOPICS, Claims, WorkerConfig
from streaming.worker.feature_worker import FeatureWorker
from streaming.worker.metrics import WorkerMetrics
from tests.memory_event_log import MemoryEventLog, MemoryEventSource
from tests.serving.waiting import eventually

T0 = 1_700_000_000_000
PARTITIONS = 3
EVERY = [(topic, number) for topic in TOPICS for number in range(PARTITIONS)]
CONFIG = WorkerConfig(
    PARTITIONS, max_poll=40, max_batch=10, poll_s=0.0, fenced_pause_s=0.0, max_backoff_s=0.01
)


def make_events(n: int, seed: int = 0) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            event_id=f"{seed}-{i}",
            type=rng.choice([EventType.CLICK, EventType.LIKE, EventType.DWELL, EventType.PURCHASE]),
            user_id=f"u{rng.randrange(12)}",
            item_id=f"i{rng.randrange(9)}",
            event_time_ms=T0 + rng.randrange(3 * MS_PER_HOUR),
            value=100.0,
            context={"categories": rng.choice(["A|B", "C"])},
        )
        for i in range(n)
    ]


def send(log: MemoryEventLog, events: Iterable[Event]) -> None:
    for event in events:
        log.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))


def new_store() -> MemoryFeatureStore:
    return MemoryFeatureStore(FEATURES, StoreConfig(PARTITIONS))


def new_worker(store: FeatureStore, log: MemoryEventLog, config: WorkerConfig = CONFIG) -> FeatureWorker:
    worker = FeatureWorker(store, log, config)
    worker.own(range(config.partitions))
    return worker


def drain(worker: FeatureWorker, source: MemoryEventSource) -> None:
    """Step until nothing is left to read or on its way."""
    idle = 0
    while idle < 3:
        idle = 0 if worker.step(source) else idle + 1


def assert_holds(store: FeatureStore, events: Sequence[Event]) -> None:
    """The store has what folding each event once gives."""
    expected = MemoryFeatureStore(FEATURES, StoreConfig(PARTITIONS))
    epoch = expected.claim("t", 0, "").epoch
    expected.apply(Batch("t", 0, epoch, 0, len(events), T0, range(len(events)), list(events)))
    assert dict(store.all_items()) == dict(expected.all_items())
    for user_id in {e.user_id for e in events}:
        assert store.user(user_id) == expected.user(user_id)


def reasons(log: MemoryEventLog) -> list[str]:
    return sorted(letter.reason.split(":")[0] for letter in read_dead_letters(log.source()))


def test_every_event_is_applied() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(500)
    send(log, events)
    worker = new_worker(store, log)
    drain(worker, log.source())
    assert_holds(store, events)
    assert worker.metrics.totals()["events_applied"] == 500


def test_a_worker_reports_until_it_leaves() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    send(log, make_events(50))
    worker = new_worker(store, log, replace(CONFIG, report_s=0.0, check_s=0.0))
    drain(worker, log.source())
    report = read_report(store.reports()[worker.name])
    assert report is not None
    assert (report.applied, report.partitions, report.lag) == (50, len(EVERY), None)
    assert {0.005, float("inf")} <= report.freshness.keys()
    store.leave(worker.name)
    assert store.reports() == {}


def test_item_changes_reach_the_catalogue_once_and_malformed_ones_do_not() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()

    def change(item_id: str, item: Item | None, at: int) -> None:
        log.append(Topic.ITEMS, item_id, msgspec.json.encode(ItemChange(item_id, item, at).to_dict()))

    for n in range(30):
        change(f"i{n}", Item(f"i{n}", f"Film {n}", ("A",)), T0 + n)
    change("i3", None, T0 + 50)
    change("i4", Item("i4", "too late"), T0 - 1)
    log.append(Topic.ITEMS, "i5", b"{")
    log.append(Topic.ITEMS, "i5", b'{"deleted": "i5"}')
    log.append(Topic.ITEMS, "i5", msgspec.json.encode(ItemChange("i6", None, T0).to_dict()))
    drain(new_worker(store, log), log.source())
    expected = {f"i{n}": Item(f"i{n}", f"Film {n}", ("A",)) for n in range(30)} | {"i3": None}
    assert dict(store.catalogue()) == expected
    assert reasons(log) == ["item change", "json", "misrouted"]
    cursor, _ = store.changed_items("", 0)
    again = new_worker(store, log)  # from the stored offsets: nothing is read twice
    drain(again, log.source())
    assert store.changed_items(cursor, 0)[1] == set()


def test_user_attributes_reach_the_store_and_malformed_ones_do_not() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    for n in range(30):
        put = UserChange(f"u{n}", User(f"u{n}", {"age": str(n)}), T0 + n)
        log.append(Topic.USERS, put.user_id, msgspec.json.encode(put.to_dict()))
    log.append(Topic.USERS, "u3", msgspec.json.encode(UserChange("u3", None, T0 + 50).to_dict()))
    log.append(Topic.USERS, "u5", b'{"user": {"user_id": "u5", "attributes": {"age": 5}}, "changed_ms": 5}')
    drain(new_worker(store, log), log.source())
    assert [store.user(f"u{n}").attributes for n in range(30)] == [
        None if n == 3 else {"age": str(n)} for n in range(30)
    ]
    assert reasons(log) == ["attributes"]


def test_merges_reach_the_store_whatever_dies_meanwhile() -> None:
    log, events = MemoryEventLog(PARTITIONS), make_events(60)
    merges = [UserMerge(f"u{n}", "u0", T0 + n) for n in range(1, 4)]
    send(log, events[:30])
    for merge in merges:
        log.append(Topic.USERS, merge.key, msgspec.json.encode(merge.to_dict()))
    log.append(Topic.USERS, "u1", msgspec.json.encode(merges[0].to_dict()))  # as a change of attributes is
    log.append(Topic.USERS, merges[0].key, b"")  # when they are forgotten
    send(log, events[30:])

    class Dying(MemoryFeatureStore):
        """Merges, and then does not say so."""

        def merge_users(self, merges: Sequence[UserMerge]) -> None:
            super().merge_users(merges)
            if merges and rng.random() < 0.7:
                raise Unavailable("the process is killed here")

    rng, store = random.Random(1), Dying(FEATURES, StoreConfig(PARTITIONS))
    for _ in range(20):
        with contextlib.suppress(Unavailable):
            drain(new_worker(store, log), log.source())
    together = [replace(e, user_id="u0") for e in events if e.user_id in ("u0", "u1", "u2", "u3")]
    expected = MemoryFeatureStore(FEATURES, StoreConfig(PARTITIONS))
    drain(new_worker(expected, sent := MemoryEventLog(PARTITIONS)), sent.source())
    send(sent, together)
    drain(new_worker(expected, sent), sent.source())
    assert store.user("u0") == expected.user("u0")
    assert set(reasons(log)) == {"misrouted"}


def test_an_impression_becomes_one_event_per_item() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    shown = [ShownItem(f"i{n}", n, 0.5, categories=("A",)) for n in range(3)]
    impression = Impression("r1", "u1", T0, "b", "f", shown, np.zeros((3, 2), dtype=np.float32))
    for _ in range(2):  # sent twice, counted once
        log.append(Topic.IMPRESSIONS, "u1", msgspec.json.encode(impression.to_dict()))
    drain(new_worker(store, log), log.source())
    assert sorted(v.item_id for v in store.user("u1").histories["shown"]) == ["i0", "i1", "i2"]
    assert store.items(["i1"])[0].cells["shown"] == 1


def test_malformed_records_become_dead_letters_and_the_rest_is_applied() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(60)
    send(log, events[:30])
    log.append(Topic.EVENTS, "u1", b"{not json")
    log.append(Topic.EVENTS, "u1", b"\xff\xfe")
    log.append(Topic.EVENTS, "u1", msgspec.json.encode(events[0].to_dict() | {"type": "hover"}))
    log.append(Topic.IMPRESSIONS, "u1", b"{}")
    send(log, events[30:])
    worker = new_worker(store, log)
    drain(worker, log.source())
    assert_holds(store, events)
    assert reasons(log) == ["impression", "json", "json", "type"]
    assert worker.metrics.totals()["dead_letters_poison"] == 4


def test_an_empty_list_is_valid() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    features = np.empty((0, 0), np.float32)
    empty = Impression("r", "u1", T0, "b", FEATURES.fingerprint, (), features)
    log.append(Topic.IMPRESSIONS, "u1", msgspec.json.encode(empty.to_dict()))
    events = make_events(5)
    send(log, events)
    drain(new_worker(store, log), log.source())
    assert_holds(store, events)
    assert reasons(log) == []


def test_an_event_counts_in_whichever_partition_it_is() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    user = next(
        f"u{i}" for i in range(99) if partition_of(f"u{i}", PARTITIONS) != partition_of("", PARTITIONS)
    )
    click = Event("1", EventType.CLICK, user, "i", T0)
    log.append(Topic.EVENTS, "", msgspec.json.encode(click.to_dict()))
    worker = new_worker(store, log)
    drain(worker, log.source())
    assert_holds(store, [click])
    assert reasons(log) == []
    assert worker.metrics.registry.get_sample_value("recsys_stream_elsewhere_total") == 1


def test_lateness_is_measured_against_the_watermark_not_the_clock() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    times = [0, MS_PER_HOUR, 2 * MS_PER_DAY, MS_PER_DAY, MS_PER_DAY - 1, MS_PER_HOUR]
    clicks = [Event(str(n), EventType.CLICK, "u", "i", T0 + t) for n, t in enumerate(times)]
    send(log, clicks)
    worker = new_worker(store, log)
    drain(worker, log.source())
    assert_holds(store, clicks[:4])
    assert reasons(log) == ["late", "late"]
    send(log, [replace(clicks[0], event_id="again")])
    drain(new_worker(store, log), log.source())  # another worker, which learns the watermark from the store
    assert reasons(log) == ["late", "late", "late"]


def test_future_event_times_become_the_append_time() -> None:
    class StampedSource(MemoryEventSource):
        def poll(self, timeout_s: float, max_records: int) -> list[Record]:
            return [replace(r, append_time_ms=T0) for r in super().poll(timeout_s, max_records)]

    log, store = MemoryEventLog(PARTITIONS), new_store()
    allowed = TimeRules().future_ms
    send(log, [Event("1", EventType.CLICK, "u", "i", T0 + allowed)])
    send(log, [Event("2", EventType.CLICK, "u", "i", T0 + allowed + 1)])
    worker = new_worker(store, log)
    drain(worker, StampedSource(log))
    times = {v.event_id: v.event_time_ms for v in store.user("u").histories["engaged"]}
    assert times == {"1": T0 + allowed, "2": T0}
    assert worker.metrics.totals()["clamped"] == 1


def test_a_fenced_worker_gives_up_and_reclaims() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(300)
    old, new = new_worker(store, log), new_worker(store, log)
    send(log, events[:100])
    source = log.source()
    drain(old, source)
    send(log, events[100:200])
    drain(new, log.source())
    send(log, events[200:])
    drain(old, source)  # its claims are outdated
    assert_holds(store, events)
    totals = old.metrics.totals()
    assert totals["refused_batches_fenced"] > 0
    assert totals["events_applied"] + new.metrics.totals()["events_applied"] == 300


class SlowStore(MemoryFeatureStore):
    """Applies nothing while it is held."""

    def __init__(self) -> None:
        super().__init__(FEATURES, StoreConfig(PARTITIONS))
        self.released = threading.Event()
        self.released.set()
        self.calls = 0

    def hold(self) -> None:
        self.released.clear()
        self.calls = 0

    def apply(self, batch: Batch) -> Applied:
        self.calls += 1
        assert self.released.wait(5)
        return super().apply(batch)


@pytest.mark.parametrize("fenced", [False, True])
def test_batches_are_read_while_the_store_is_busy_and_refused_with_the_one_before(fenced: bool) -> None:
    log, store = MemoryEventLog(PARTITIONS), SlowStore()
    events = [replace(event, user_id="u1") for event in make_events(200)]
    worker = new_worker(store, log, replace(CONFIG, max_poll=10, in_flight=3))
    source = log.source()
    drain(worker, source)  # claims and reports
    send(log, events)
    store.hold()
    for _ in range(3):
        assert worker.step(source) == 10
    assert store.calls == 1
    if fenced:
        for number in range(PARTITIONS):
            store.claim(Topic.EVENTS, number, source.log_id(Topic.EVENTS))
    store.released.set()
    drain(worker, source)
    assert_holds(store, events)
    assert worker.metrics.totals().get("refused_batches_fenced", 0) == (3 if fenced else 0)


class HeldPartition(MemoryFeatureStore):
    """Partition 0 has to wait; remembers the batches of each."""

    def __init__(self) -> None:
        super().__init__(FEATURES, StoreConfig(PARTITIONS))
        self.released = threading.Event()
        self.begun: list[tuple[int, int]] = []

    def apply(self, batch: Batch) -> Applied:
        self.begun.append((batch.partition, batch.previous))
        assert batch.partition != 0 or self.released.wait(5)
        return super().apply(batch)


def test_partitions_do_not_wait_for_each_other_and_each_stays_in_order() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), HeldPartition(), make_events(100)
    worker = new_worker(store, log, replace(CONFIG, max_poll=1_000, in_flight=1_000))
    source = log.source()
    drain(worker, source)  # claims and reports
    send(log, events)
    assert worker.step(source) == 100
    sent = Counter(partition_of(event.user_id, PARTITIONS) for event in events)
    batches = -(-sent[1] // CONFIG.max_batch)
    eventually(lambda: sum(number == 1 for number, _ in store.begun) == batches)
    assert [previous for number, previous in store.begun if number == 0] == [0]
    store.released.set()
    drain(worker, source)
    assert_holds(store, events)
    for number in range(PARTITIONS):
        begun = [previous for each, previous in store.begun if each == number]
        assert begun == sorted(begun)
        assert begun


class Lanes(MemoryFeatureStore):
    """Remembers which thread applied which partition; number 0 fails while it is away."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        super().__init__(FEATURES, StoreConfig(partitions))
        self.threads: dict[int, str] = {}
        self.away = threading.Event()
        self.others = threading.Event()  # have been applied

    def apply(self, batch: Batch) -> Applied:
        self.threads[batch.partition] = threading.current_thread().name
        if self.away.is_set() and batch.offsets:
            if batch.partition == 0:
                assert self.others.wait(5)
                raise Unavailable("this lane alone")
            self.others.set()
        return super().apply(batch)


@pytest.mark.parametrize("owned", [(0, 1), (0, 2), (1, 3), (2, 3)])
def test_the_partitions_that_a_worker_owns_now_are_spread_over_its_threads(owned: tuple[int, ...]) -> None:
    partitions = 4
    log, store = MemoryEventLog(partitions), Lanes(partitions)
    worker, source = FeatureWorker(store, log, replace(CONFIG, partitions=partitions)), log.source()
    for numbers in (range(partitions), owned):
        store.threads.clear()
        worker.own(numbers)
        send(log, [replace(event, user_id=f"u{n}") for n, event in enumerate(make_events(100))])
        drain(worker, source)
    assert {store.threads[number] for number in owned} == {"apply-0_0", "apply-1_0"}


def test_what_the_other_thread_applied_before_an_outage_counts_once() -> None:
    log, store, stop = MemoryEventLog(PARTITIONS), Lanes(), threading.Event()
    events = [event for event in make_events(200) if partition_of(event.user_id, PARTITIONS) < 2]
    worker = new_worker(store, log, replace(CONFIG, max_poll=1_000, max_batch=1_000, fresh_batch=1_000))
    worker.own(range(2))
    send(log, events)
    store.away.set()
    thread = threading.Thread(target=worker.run, args=(log.source(), stop))
    thread.start()
    assert wait_for(lambda: worker.metrics.totals()["outages"] > 0)
    store.away.clear()
    assert wait_for(lambda: worker.metrics.totals().get("events_applied", 0) >= len(events))
    stop.set()
    thread.join(30)
    assert_holds(store, events)
    assert worker.metrics.totals()["events_applied"] == len(events)


def test_a_fault_of_the_program_ends_the_worker_and_its_threads() -> None:
    class Broken(MemoryFeatureStore):
        def apply(self, batch: Batch) -> Applied:
            if batch.offsets:
                raise ZeroDivisionError
            return super().apply(batch)

    log, store = MemoryEventLog(PARTITIONS), Broken(FEATURES, StoreConfig(PARTITIONS))
    send(log, make_events(200))
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        new_worker(store, log).run(log.source(), threading.Event())
    assert threading.active_count() == before


class FaultyStore(MemoryFeatureStore):
    """Fails now and then: before applying, after it, or by losing what it had applied lately."""

    def __init__(self, rng: random.Random, rate: float) -> None:
        super().__init__(FEATURES, StoreConfig(PARTITIONS))
        self._rng = rng
        self._rate = rate

    def apply(self, batch: Batch) -> Applied:
        fate = self._rng.random() / self._rate if self._rate else 1.0
        if fate < 0.3:
            raise Unavailable("lost before")
        applied = super().apply(batch)
        if fate < 0.6:
            raise Unavailable("applied, but the answer is lost")
        if fate < 1.0:
            return replace(applied, outcome=self._rng.choice([Outcome.FENCED, Outcome.GAP]))
        return applied

    def heal(self) -> None:
        self._rate = 0.0


class FaultyLog(MemoryEventLog):
    """Refuses to flush now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(PARTITIONS)
        self._rng = rng

    def flush(self, timeout_s: float = 10.0) -> None:
        if self._rng.random() < 0.2:
            raise Unavailable("the dead-letter topic is away")


@pytest.mark.parametrize("seed", range(8))
def test_faults_neither_lose_nor_duplicate_events(seed: int) -> None:
    rng = random.Random(seed)
    log, store, events = FaultyLog(rng), FaultyStore(rng, rate=0.4), make_events(600, seed)
    sent = events + rng.sample(events, 60)  # some twice
    rng.shuffle(sent)
    stop = threading.Event()
    worker = new_worker(store, log)
    poison = 0
    for n, event in enumerate(sent):
        send(log, [event])
        if n % 100 == 50:
            log.append(Topic.EVENTS, event.user_id, b"poison")
            poison += 1
    thread = threading.Thread(target=worker.run, args=(log.source(), stop))
    thread.start()
    assert wait_for(lambda: worker.metrics.totals()["outages"] > 3)
    store.heal()
    assert wait_for(lambda: applied_up_to_the_end(store, log))
    stop.set()
    thread.join(30)
    assert_holds(store, events)
    assert len(reasons(log)) == poison


def test_an_idle_worker_detects_that_the_store_lost_its_state() -> None:
    class ForgetfulStore(MemoryFeatureStore):
        def forget(self) -> None:
            self.__init__(FEATURES, StoreConfig(PARTITIONS))  # type: ignore[misc]

    log, store, events = (
        MemoryEventLog(PARTITIONS),
        ForgetfulStore(FEATURES, StoreConfig(PARTITIONS)),
        make_events(90),
    )
    send(log, events)
    worker = new_worker(store, log, replace(CONFIG, report_s=0.0, check_s=0.0))
    source = log.source()
    drain(worker, source)
    store.forget()
    drain(worker, source)
    drain(worker, source)
    assert_holds(store, events)


def test_a_replaced_log_is_read_from_the_beginning() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(200)
    stop = threading.Event()
    worker = new_worker(store, log)
    thread = threading.Thread(target=worker.run, args=(log.source(), stop))
    thread.start()
    send(log, events[:150])
    assert wait_for(lambda: applied_up_to_the_end(store, log))
    log.lose()
    send(log, events[100:])
    assert wait_for(lambda: applied_up_to_the_end(store, log))
    stop.set()
    thread.join(30)
    assert_holds(store, events)


def test_stopping_finishes_the_batch_in_flight() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(500)
    send(log, events)
    stop = threading.Event()
    worker = new_worker(store, log)
    thread = threading.Thread(target=worker.run, args=(log.source(), stop))
    thread.start()
    assert wait_for(lambda: worker.metrics.totals().get("events_applied", 0) > 0)
    stop.set()
    thread.join(30)
    totals = worker.metrics.totals()
    offsets = [store.claim(Topic.EVENTS, p, log.log_id(Topic.EVENTS)).offset for p in range(PARTITIONS)]
    assert sum(offsets) == totals["events_applied"]
    drain(new_worker(store, log), log.source())
    assert_holds(store, events)


def test_workers_share_the_partitions_and_replace_one_that_leaves_or_dies() -> None:
    now = 0.0
    store = MemoryFeatureStore(FEATURES, StoreConfig(PARTITIONS), clock=lambda: now)
    log, events = MemoryEventLog(PARTITIONS), make_events(400)
    config = replace(CONFIG, heartbeat_s=0.0, dead_after_s=5.0)
    workers = {name: FeatureWorker(store, log, config, name=name) for name in "abc"}
    sources = {name: log.source() for name in workers}

    def work(names: str, sent: Sequence[Event]) -> dict[str, int]:
        before = {name: workers[name].metrics.totals().get("events_applied", 0) for name in names}
        send(log, sent)
        for _ in range(40):
            for name in names:
                workers[name].step(sources[name])
        after = {name: workers[name].metrics.totals().get("events_applied", 0) for name in names}
        return {name: after[name] - before[name] for name in names}

    assert work("a", events[:100])["a"] == 100
    work("abc", [])  # all know of each other
    assert all(work("abc", events[100:200]).values())
    store.leave("a")
    assert sum(work("bc", events[200:300]).values()) == 100
    now += 6.0  # `b` is silent for longer than `dead_after_s`
    assert work("c", events[300:])["c"] == 100
    assert_holds(store, events)


def test_what_was_fenced_and_then_lost_is_not_read_any_further() -> None:
    """A joiner claims before the old worker's next heartbeat: its batch is fenced first."""

    class Source(MemoryEventSource):
        unsought: ClassVar[set[Partition]] = set()

        def unseek(self, topic: str, partition: int) -> None:
            super().unseek(topic, partition)
            self.unsought.add((topic, partition))

    log, store = MemoryEventLog(PARTITIONS), new_store()
    old, new = (FeatureWorker(store, log, CONFIG, name=name) for name in "ab")
    source = Source(log)
    drain(old, source)
    store.workers("b", 60_000)
    new.own(range(PARTITIONS))
    new.step(log.source())
    send(log, make_events(60))
    drain(old, source)
    assert {(topic, 1) for topic in TOPICS} <= Source.unsought


def test_the_lag_of_a_partition_is_exported_by_its_worker_alone() -> None:
    claims = Claims(new_store(), CONFIG, WorkerMetrics())
    claims.report({("events", 0): 5, ("events", 1): 7})
    claims.report({("events", 1): 3})
    lags = [s for metric in claims._metrics.lag.collect() for s in metric.samples]
    assert [(s.labels["partition"], s.value) for s in lags] == [("1", 3)]


def test_the_topics_must_have_the_configured_partitions() -> None:
    log = MemoryEventLog(PARTITIONS + 1)
    worker = FeatureWorker(new_store(), log, CONFIG)
    with pytest.raises(InvalidConfig, match="RECSYS_PARTITIONS=4"):
        worker.run(log.source(), threading.Event())


def test_a_partition_that_cannot_be_read_stops_alone_and_is_reported() -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(300)
    send(log, events)
    log.break_at(Topic.EVENTS, 1, 5)
    worker, source = new_worker(store, log, replace(CONFIG, report_s=0.0, check_s=0.0)), log.source()
    drain(worker, source)
    stored = {number: store.checkpoint(Topic.EVENTS, number) for number in range(PARTITIONS)}
    ends = {number: log.end_offset(Topic.EVENTS, number) for number in range(PARTITIONS)} | {1: 5}
    assert {number: found and found.offset for number, found in stored.items()} == ends
    (content,) = store.reports().values()
    report = read_report(content)
    assert report is not None and "recsys stream skip events 1 5" in report.problems[0]
    assert worker.metrics.registry.get_sample_value("recsys_stream_stopped_partitions") == 1
    log.broken.clear()
    drain(worker, source)
    assert_holds(store, events)
    report = read_report(next(iter(store.reports().values())))
    assert report is not None and report.problems == ()


def test_a_skipped_batch_is_one_dead_letter() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    log.append(Topic.EVENTS, "u", b"\x00raw", [(UNREADABLE, b"unreadable: from offset 0: bad checksum")])
    drain(new_worker(store, log), log.source())
    (letter,) = read_dead_letters(log.source())
    assert (letter.kind, letter.value) == ("unreadable", b"\x00raw")


def test_a_grown_topic_stops_the_worker_until_it_is_set_and_known() -> None:
    """Whoever added the partitions: no record is refused, and none is lost."""
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(200)
    send(log, events[:100])
    drain(new_worker(store, log), log.source())
    send(log, events[100:120])  # in their old partitions, not read yet
    log.add_partitions(2)
    send(log, events[120:])
    with pytest.raises(InvalidConfig, match="recsys topics grow 5"):
        FeatureWorker(store, log, CONFIG).run(log.source(), threading.Event())
    grown = replace(CONFIG, partitions=PARTITIONS + 2)
    with pytest.raises(InvalidConfig, match="recsys topics grow"):
        FeatureWorker(store, log, grown).run(log.source(), threading.Event())
    for topic, number in product(TOPICS, range(PARTITIONS, PARTITIONS + 2)):
        assert store.add_partition(topic, number, log.log_id(topic), T0)
        assert not store.add_partition(topic, number, log.log_id(topic), T0 + 1)
    drain(new_worker(store, log, grown), log.source())
    assert_holds(store, events)
    assert reasons(log) == []


def test_of_fixed_partitions_those_that_a_topic_does_not_have_are_not_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`items` and `users` keep their number when the others grow."""
    log, store = MemoryEventLog(PARTITIONS), new_store()
    drain(new_worker(store, log), log.source())
    source, most = log.source(), PARTITIONS + 2
    monkeypatch.setattr(source, "partitions", lambda topic: most if topic in GROWING else PARTITIONS)
    for topic, number in product(GROWING, range(PARTITIONS, most)):
        store.add_partition(topic, number, log.log_id(topic), T0)
    worker = FeatureWorker(store, log, replace(CONFIG, partitions=most))
    worker.own(range(PARTITIONS - 1, most))
    worker._restart(source)
    asked = {*product(GROWING, range(PARTITIONS - 1, most)), *product(TOPICS, [PARTITIONS - 1])}
    assert worker._claims.held.keys() == asked


def test_a_gap_stops_the_worker_until_it_is_accepted() -> None:
    log, store, events = MemoryEventLog(1), new_store(), make_events(30)
    config = replace(CONFIG, partitions=1)
    send(log, events[:10])
    drain(new_worker(store, log, config), log.source())
    send(log, events[10:])
    log.delete_before(Topic.EVENTS, 0, 20)
    with pytest.raises(InvalidData, match="--accept-gap"):
        drain(new_worker(store, log, config), log.source())
    worker = new_worker(store, log, config)
    drain(worker, log.source(accept_gap=True))
    assert worker.metrics.totals()["lost_events_0"] == 10
    assert_holds(store, events[:10] + events[20:])
    drain(new_worker(store, log, config), log.source())  # it has been stored


def test_a_gap_up_to_the_end_is_passed_at_once() -> None:
    log, store, events = MemoryEventLog(1), new_store(), make_events(9)
    config = replace(CONFIG, partitions=1)
    send(log, events[:3])
    drain(new_worker(store, log, config), log.source())
    send(log, events[3:])
    log.delete_before(Topic.EVENTS, 0, 9)
    drain(new_worker(store, log, config), log.source(accept_gap=True))
    stored = store.checkpoint(Topic.EVENTS, 0)
    assert stored is not None and stored.offset == 9


def test_a_worker_waits_for_the_log_at_start(caplog: pytest.LogCaptureFixture) -> None:
    log, store, events = MemoryEventLog(PARTITIONS), new_store(), make_events(50)
    send(log, events)
    away = iter([Unavailable("no broker")] * 3)

    class LateSource(MemoryEventSource):
        def partitions(self, topic: str) -> int:
            for error in away:
                raise error
            return super().partitions(topic)

    worker, stop = new_worker(store, log), threading.Event()
    thread = threading.Thread(target=worker.run, args=(LateSource(log), stop))
    thread.start()
    assert wait_for(lambda: applied_up_to_the_end(store, log))
    stop.set()
    thread.join()
    assert_holds(store, events)


def test_healthz_is_of_the_loop_not_of_the_process() -> None:
    metrics, port = WorkerMetrics(), free_port()
    metrics.serve(port)
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    metrics._stepped -= STUCK_S
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 503
    assert "recsys_stream_claims_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    metrics.stepped()
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


def applied_up_to_the_end(store: FeatureStore, log: MemoryEventLog) -> bool:
    for topic, partition in EVERY:
        stored = store.checkpoint(topic, partition)
        if stored is None or stored.log_id != log.log_id(topic):
            return False
        if stored.offset < log.end_offset(topic, partition):
            return False
    return True


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """True once the condition holds; False when it does not in time."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return True
        pause.wait(0.01)
    return False


def test_a_change_stamped_in_the_future_can_be_corrected() -> None:
    """It counts as of its append, so whatever comes later is newer."""
    put = ItemChange("i", Item("i", "wrong clock"), T0 + MS_PER_HOUR)
    later = ItemChange("i", None, T0 + 1)
    records = [
        Record(Topic.ITEMS, partition_of("i", PARTITIONS), n, "i", msgspec.json.encode(change.to_dict()), at)
        for n, (change, at) in enumerate([(put, T0), (later, T0 + 2)])
    ]
    store = new_store()
    store.change_items([accept_item_change(record) for record in records])
    assert dict(store.catalogue()) == {"i": None}
    attributes = UserChange("u", User("u", {"age": "1"}), T0 + 1)
    where = partition_of("u", PARTITIONS)
    record = Record(Topic.USERS, where, 0, "u", msgspec.json.encode(attributes.to_dict()), append_time_ms=T0)
    change = accept_user_change(record)
    assert change is not None
    assert change.changed_ms == T0


def test_markers_of_transactions_are_read_and_no_lag() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    send(log, events := make_events(60))
    worker = new_worker(store, log, replace(CONFIG, report_s=0.0))
    source = log.source()
    for last in (False, True):
        for number in range(PARTITIONS):
            log.mark(Topic.EVENTS, number)
        drain(worker, source)
        for number in range(PARTITIONS):
            stored = store.checkpoint(Topic.EVENTS, number)
            assert stored is not None and stored.offset == log.end_offset(Topic.EVENTS, number)
        if not last:
            send(log, more := make_events(60, seed=1))
    assert_holds(store, events + more)
    assert worker.metrics.totals()["claims"] == len(EVERY)  # no batch was taken for one with a gap


def test_what_an_open_transaction_holds_back_is_reported_by_name() -> None:
    log, store = MemoryEventLog(PARTITIONS), new_store()
    log.held_back = [HeldBack(Topic.EVENTS, 1, 40, 12, 35.4)]
    worker = new_worker(store, log, replace(CONFIG, report_s=0.0))
    source = log.source()
    drain(worker, source)
    report = read_report(store.reports()[worker.name])
    assert report is not None
    assert (
        "events/1: an open transaction has held back 12 records from offset 40 on for 35 s"
        in report.problems[0]
    )
    assert worker.metrics.held_back._value.get() == 12
    log.held_back = []
    drain(worker, source)
    assert worker.metrics.held_back._value.get() == 0
