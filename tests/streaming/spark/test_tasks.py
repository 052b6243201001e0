"""What an executor does, without Spark: the same states, checkpoints and dead letters as the worker's."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import msgspec
import pytest

from infra.evaluation.fault_injection.stream import StreamDrill, drill_records
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import Record
from recsys.contracts.types import Item, Topic, User
from recsys.features.definitions import FEATURES
from recsys.kafka_connection import KafkaConnection
from recsys.store.base import Applied, Batch, Outcome, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from streaming.settings import StreamSettings
from streaming.spark import tasks
from streaming.spark.tasks import DONE, Done, MicroBatch, apply_records, read_records
from streaming.worker.applier import Applier
from streaming.worker.batches import Claim
from tests.memory_event_log import MemoryEventLog
from tests.streaming.spark.fake_spark import rows_of
from tests.streaming.worker.test_feature_worker import (
    CONFIG,
    EVERY,
    PARTITIONS,
    T0,
    assert_holds,
    drain,
    make_events,
    new_store,
    new_worker,
    reasons,
    send,
)


def a_log_of_everything() -> MemoryEventLog:
    """Events, lists, poison, late and repeated ones; items and users put, deleted and malformed."""
    log = MemoryEventLog(PARTITIONS)
    for topic, key, value in islice(drill_records(replace(StreamDrill.quick(seed=5), users=40)), 1_200):
        log.append(topic, key, value)
    for n in range(30):
        put = ItemChange(f"i{n}", Item(f"i{n}", f"Film {n}", ("A",)), T0 + n)
        log.append(Topic.ITEMS, put.item_id, msgspec.json.encode(put.to_dict()))
        user = UserChange(f"user-{n}", User(f"user-{n}", {"age": str(n)}), T0 + n)
        log.append(Topic.USERS, user.user_id, msgspec.json.encode(user.to_dict()))
    log.append(Topic.ITEMS, "i3", b"")  # a tombstone
    log.append(Topic.USERS, "user-3", b"{")
    return log


def claims_of(store: MemoryFeatureStore, log: MemoryEventLog) -> dict[tuple[str, int], Claim]:
    found: dict[tuple[str, int], Claim] = {}
    for topic, number in EVERY:
        at = store.claim(topic, number, log.log_id(topic))
        found[topic, number] = Claim(topic, number, at.epoch, at.offset, at.watermark_ms)
    return found


def contents(store: MemoryFeatureStore) -> object:
    """All that a store has, and how far it is; not who wrote it."""
    places = [store.checkpoint(*where) for where in EVERY]
    users = {f"user-{n}": store.user(f"user-{n}") for n in range(40)}
    at = [(place.offset, place.watermark_ms) for place in places if place]
    return dict(store.all_items()), users, dict(store.catalogue()), at


def test_micro_batches_leave_what_the_worker_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    log, by_worker, by_tasks, rng = a_log_of_everything(), new_store(), new_store(), random.Random(0)
    letters = MemoryEventLog(PARTITIONS)
    drain(new_worker(by_worker, log), log.source())
    monkeypatch.setattr(tasks, "open_applier", lambda settings: Applier(by_tasks, letters))
    claims = claims_of(by_tasks, log)
    tallies = []
    while any(claim.position < log.end_offset(*where) for where, claim in claims.items()):
        work = MicroBatch(StreamSettings(), CONFIG, {w: replace(c) for w, c in claims.items()})
        for where, claim in claims.items():
            records = log.read(*where, claim.position, rng.randrange(40))
            for row in work.apply(rows_of(records)):
                done = msgspec.json.decode(row.column(DONE)[0].as_py(), type=Done)
                claim.position, claim.watermark_ms = done.position, done.watermark_ms
                tallies += done.tallies
    assert contents(by_tasks) == contents(by_worker)
    assert reasons(letters) == reasons(log) and len(reasons(letters)) > 10
    assert sum(len(tally.dead_letters) for tally in tallies) == len(reasons(letters))
    assert {kind for tally in tallies for kind in tally.dead_letters} == {"late", "poison"}


def test_records_are_those_that_the_workers_source_gives() -> None:
    headers = (("replay", b"1"), ("traceparent", b""))
    sent = [
        Record(Topic.EVENTS, 2, 7, "ü", b"{}", T0, headers),
        Record(Topic.USERS, 2, 9, "u", b"", T0 + 1, (), tombstone=True),
        Record(Topic.USERS, 2, 10, "", b"", T0 + 2),
    ]
    assert list(read_records(rows_of(sent, 2), KafkaConnection(""))) == sent
    in_kafka = [replace(record, topic=f"shop-a.{record.topic}") for record in sent]
    assert list(read_records(rows_of(in_kafka), KafkaConnection("", topic_prefix="shop-a."))) == sent


def one_partition(n: int = 60) -> tuple[MemoryEventLog, Sequence[Record], Claim, MemoryFeatureStore]:
    log, store = MemoryEventLog(1), MemoryFeatureStore(FEATURES, StoreConfig(1))
    send(log, make_events(n))
    at = store.claim(Topic.EVENTS, 0, "")
    return log, log.read(Topic.EVENTS, 0, 0, n), Claim(Topic.EVENTS, 0, at.epoch, 0, 0), store


ALONE = replace(CONFIG, partitions=1)


def test_a_task_that_runs_twice_counts_once() -> None:
    """Spark repeats a task whose executor it has lost, which may have done all of it, or still be at work."""
    log, records, claim, store = one_partition()
    applier = Applier(store, log)
    first, second = (apply_records(applier, replace(claim), records, ALONE) for _ in range(2))
    assert first.position == second.position == 60
    assert first.outcome is second.outcome is Outcome.APPLIED
    assert sum(tally.applied for tally in first.tallies) == sum(t.skipped for t in second.tallies) == 60
    assert_holds(store, make_events(60))
    apply_records(applier, replace(claim), records[:25], ALONE)  # one of an earlier micro-batch, late
    assert_holds(store, make_events(60))
    stored = store.checkpoint(Topic.EVENTS, 0)
    assert stored is not None and stored.offset == 60


def test_a_task_of_an_engine_that_is_gone_is_fenced_and_one_that_is_ahead_is_refused() -> None:
    log, records, claim, store = one_partition()
    applier = Applier(store, log)
    ahead = apply_records(applier, replace(claim, position=20), records[20:], ALONE)
    assert (ahead.outcome, ahead.position) == (Outcome.GAP, 20)
    store.claim(Topic.EVENTS, 0, "")
    old = apply_records(applier, replace(claim), records, ALONE)
    assert (old.outcome, old.position, old.tallies) == (Outcome.FENCED, 0, [])
    assert not dict(store.all_items())


def test_a_server_that_is_away_ends_the_task_where_the_store_is() -> None:
    class TiredStore(MemoryFeatureStore):
        calls = 0

        def apply(self, batch: Batch) -> Applied:
            self.calls += 1
            if self.calls == 3:
                raise Unavailable("Redis is away")
            return super().apply(batch)

    log, records, claim, _ = one_partition()
    store = TiredStore(FEATURES, StoreConfig(1))
    claim.epoch = store.claim(Topic.EVENTS, 0, "").epoch
    done = apply_records(Applier(store, log), claim, records, ALONE)
    assert (done.position, done.unavailable) == (20, "Redis is away")
    assert store.checkpoint(Topic.EVENTS, 0) is not None
