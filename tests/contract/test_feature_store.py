"""What every feature store must do: one suite, run on memory and on every kind of Redis.

On a cluster, by Sentinel and by TLS, the account has the rights of docs/operations.md and no others.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import pytest

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import FingerprintMismatch, InvalidConfig
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.merges import Links, UserMerge
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Item, User
from recsys.features.definitions import FEATURES, SEEN_VISITS
from recsys.features.feature_set import FeatureSet
from recsys.store.base import Applied, Batch, Checkpoint, FeatureStore, Outcome, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from tests.recsys.native.built import needs_native

T0 = 1_700_000_000_000
PARTITIONS = 3
TOPIC = "events"
CONFIG = StoreConfig(partitions=PARTITIONS, changes=8)
OpenStore = Callable[[], FeatureStore]
_namespaces = count()


class Place(NamedTuple):
    """Of a store in Redis."""

    url: str
    namespace: str


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis-compiled", marks=[pytest.mark.redis, needs_native]),
        pytest.param("redis_cluster", marks=pytest.mark.redis),
        pytest.param("redis_sentinel", marks=pytest.mark.redis),
        pytest.param("redis_tls", marks=pytest.mark.redis),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the store."""
    name: str = request.param
    return name


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest) -> Place | None:
    """Where this test's store is; None: in memory."""
    match kind:
        case "memory":
            return None
        case "redis" | "redis-compiled":
            return Place(request.getfixturevalue("redis_url"), "recsys")
        case _:
            namespace = f"contract-{next(_namespaces)}"
            return Place(request.getfixturevalue(kind)(namespace), namespace)


@pytest.fixture
def open_store(kind: str, place: Place | None) -> OpenStore:
    """Opens the store of this test; each call is another client of the same store."""
    if place is None:
        store = MemoryFeatureStore(FEATURES, CONFIG)
        return lambda: store
    native = kind == "redis-compiled"
    return lambda: RedisFeatureStore(place.url, FEATURES, CONFIG, place.namespace, native=native)


@pytest.fixture
def store(open_store: OpenStore) -> Iterator[FeatureStore]:
    store = open_store()
    yield store
    store.close()


def events(n: int, seed: int = 0, users: int = 5, items: int = 7) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            event_id=f"{seed}-{i}",
            type=rng.choice(list(EventType)),
            user_id=f"user {rng.randrange(users)}",
            item_id=f"item:{rng.randrange(items)}",
            event_time_ms=T0 + rng.randrange(3 * MS_PER_HOUR),
            value=float(rng.randrange(6)),
            context={"categories": rng.choice(["Action|Drama", "Comédie", ""]), "creator": "é"},
        )
        for i in range(n)
    ]


def events_of_one_partition() -> list[Event]:
    own = [e for e in events(200, users=20) if partition_of(e.user_id, PARTITIONS) == 0]
    assert len(own) > 30
    return own


class Writer:
    """Hands events to the store, partition by partition, as the worker does."""

    def __init__(self, store: FeatureStore, log_id: str = "log") -> None:
        self.store = store
        self.checkpoints = {p: store.claim(TOPIC, p, log_id) for p in range(PARTITIONS)}

    def batch(self, partition: int, events: Sequence[Event], previous: int | None = None) -> Batch:
        stored = self.checkpoints[partition]
        first = stored.offset if previous is None else previous
        return Batch(
            topic=TOPIC,
            partition=partition,
            epoch=stored.epoch,
            previous=first,
            next_offset=first + len(events),
            watermark_ms=max((e.event_time_ms for e in events), default=0),
            offsets=range(first, first + len(events)),
            events=events,
        )

    def apply(self, events: Sequence[Event]) -> list[Applied]:
        results = []
        for partition in range(PARTITIONS):
            own = [e for e in events if partition_of(e.user_id, PARTITIONS) == partition]
            result = self.store.apply(self.batch(partition, own))
            stored = self.checkpoints[partition]
            self.checkpoints[partition] = Checkpoint(
                stored.epoch, result.offset, stored.watermark_ms, stored.log_id
            )
            results.append(result)
        return results


def expected(events: Sequence[Event]) -> tuple[dict[str, EntityState], dict[str, EntityState]]:
    """States of users and items by folding one event after another."""
    users: dict[str, EntityState] = {}
    items: dict[str, EntityState] = {}
    counted: set[bytes] = set()
    for event in events:
        folded = FEATURES.fold(event)
        user = users.setdefault(event.user_id, EntityState())
        item = items.setdefault(event.item_id, EntityState())
        for delta in folded.user:
            user.change(delta)
        for history, visit in folded.visits:
            user.visit(history, visit)
        for delta in folded.of_item(counted):
            item.change(delta)
    return users, items


def assert_holds(store: FeatureStore, events: Sequence[Event]) -> None:
    users, items = expected(events)
    for user_id, state in users.items():
        assert store.user(user_id) == state
    assert dict(store.all_items()) == {item: state for item, state in items.items() if state.cells}
    names = sorted(items)
    assert store.items(names) == [items[name] for name in names]


def test_an_empty_store_knows_nothing(store: FeatureStore) -> None:
    store.ping()
    assert store.fingerprint() is None
    assert store.user("nobody") == EntityState()
    assert store.items(["nothing", "else"]) == [EntityState(), EntityState()]
    assert store.items([]) == []
    assert list(store.all_items()) == []
    assert list(store.catalogue()) == []
    assert store.forget_user("nobody") is False


def test_states_are_the_fold_of_the_events(store: FeatureStore) -> None:
    log = events(300)
    results = Writer(store).apply(log)
    assert sum(r.applied for r in results) == 300
    assert {r.outcome for r in results} == {Outcome.APPLIED}
    assert_holds(store, log)


def test_the_order_of_events_does_not_matter(store: FeatureStore) -> None:
    log = events(200)
    shuffled = log.copy()
    random.Random(1).shuffle(shuffled)
    writer = Writer(store)
    for start in range(0, 200, 20):
        writer.apply(shuffled[start : start + 20])
    assert_holds(store, log)


def test_histories_keep_the_latest_by_time_then_id(store: FeatureStore) -> None:
    clicks = [
        Event(f"{i % 10}:{i}", EventType.CLICK, "u", f"item{i}", T0 + i // 3, context={"categories": "A"})
        for i in range(1_200)
    ]
    random.Random(2).shuffle(clicks)
    Writer(store).apply(clicks)
    state = store.user("u")
    in_order = sorted(clicks, key=lambda e: (e.event_time_ms, e.event_id))
    assert [v.event_id for v in state.histories["seen"]] == [e.event_id for e in in_order[-1_000:]]
    assert [v.event_id for v in state.histories["engaged"]] == [e.event_id for e in in_order[-50:]]


def test_an_event_sent_twice_counts_once(store: FeatureStore) -> None:
    log = events(50)
    writer = Writer(store)
    first = writer.apply(log + log[:10])
    second = writer.apply(log[40:])
    assert sum(r.duplicates for r in first) == 10
    assert sum(r.duplicates for r in second) == 10
    assert sum(r.applied for r in second) == 0
    assert_holds(store, log)


def test_an_event_id_collides_with_the_same_user_s_only(store: FeatureStore) -> None:
    log = [replace(e, event_id="same") for e in events_of_one_partition()]
    mine = list({e.user_id: e for e in reversed(log)}.values())
    assert len(mine) > 2
    assert sum(r.applied for r in Writer(store).apply(mine + log)) == len(mine)
    assert_holds(store, mine)


@pytest.mark.parametrize("moved_ms", [-MS_PER_HOUR, -1, 1, MS_PER_HOUR])
def test_an_event_sent_twice_with_another_time_counts_once(store: FeatureStore, moved_ms: int) -> None:
    """What comes without a time is given one on each attempt; the two lie in buckets side by side."""
    edge = T0 // MS_PER_HOUR * MS_PER_HOUR
    first = Event("a", EventType.CLICK, "u", "i", edge + (0 if moved_ms < 0 else MS_PER_HOUR - 1))
    again = replace(first, event_time_ms=first.event_time_ms + moved_ms)
    writer = Writer(store)
    assert sum(r.duplicates for r in writer.apply([first, again])) == 1
    assert sum(r.duplicates for r in writer.apply([again])) == 1
    assert_holds(store, [first])


def test_a_replayed_batch_changes_nothing(store: FeatureStore) -> None:
    log = events_of_one_partition()
    writer = Writer(store)
    batch = writer.batch(0, log)
    assert store.apply(batch).applied == len(log)
    again = store.apply(batch)
    assert (again.outcome, again.skipped, again.applied) == (Outcome.APPLIED, len(log), 0)
    assert again.offset == len(log)
    assert_holds(store, log)


def test_a_batch_that_overlaps_is_applied_from_the_stored_offset(store: FeatureStore) -> None:
    log = events_of_one_partition()
    writer = Writer(store)
    store.apply(writer.batch(0, log[:10]))
    result = store.apply(writer.batch(0, log[5:], previous=5))
    assert (result.skipped, result.applied, result.offset) == (5, len(log) - 10, len(log))
    assert_holds(store, log)


@pytest.mark.parametrize("n", [0, 10])
def test_a_replay_that_ends_below_the_stored_offset_changes_nothing(store: FeatureStore, n: int) -> None:
    log = events_of_one_partition()[:20]
    writer = Writer(store)
    store.apply(writer.batch(0, log))
    epoch = writer.checkpoints[0].epoch
    again = store.apply(Batch(TOPIC, 0, epoch, 0, 10, T0, range(n), log[:n]))  # 0: dead letters only
    assert again == Applied(Outcome.APPLIED, 20, 0, 0, n)
    assert_holds(store, log)


def test_a_replay_of_a_batch_with_duplicates_counts_nothing_twice(store: FeatureStore) -> None:
    writer = Writer(store)
    a, b, c = events_of_one_partition()[:3]
    batch = writer.batch(0, [a, b, a])
    assert store.apply(batch) == Applied(Outcome.APPLIED, 3, 2, 1)
    assert store.apply(batch) == Applied(Outcome.APPLIED, 3, skipped=3)
    # ends beyond the stored offset; the log's new record of `b` is a duplicate, whatever lies before it
    result = store.apply(writer.batch(0, [a, b, a, c, b, c], previous=0))
    assert result == Applied(Outcome.APPLIED, 6, 1, 2, 3)
    assert_holds(store, [a, b, c])


def test_a_replayed_record_behind_a_duplicate_is_skipped(store: FeatureStore) -> None:
    """The event id alone would not tell: it is no longer remembered."""
    writer = Writer(store)
    epoch = writer.checkpoints[0].epoch
    a, b = (Event(name, EventType.CLICK, "u", name, T0) for name in "ab")
    assert store.apply(Batch(TOPIC, 0, epoch, 0, 2, T0, range(2), [b, b])).applied == 1
    store.apply(Batch(TOPIC, 0, epoch, 2, 3, T0 + 2 * MS_PER_DAY, [], []))  # forgets ids of T0
    again = store.apply(Batch(TOPIC, 0, epoch, 0, 5, T0, range(5), [a, b, a, a, a]))
    assert (again.skipped, again.applied, again.duplicates) == (3, 1, 1)
    assert_holds(store, [b, a])


def test_a_gap_is_refused(store: FeatureStore) -> None:
    writer = Writer(store)
    log = events_of_one_partition()
    result = store.apply(writer.batch(0, log[10:], previous=10))
    assert (result.outcome, result.offset) == (Outcome.GAP, 0)
    assert store.user(log[10].user_id) == EntityState()


def test_holes_in_a_compacted_log_are_no_gap(store: FeatureStore) -> None:
    writer = Writer(store)
    first, second = events_of_one_partition()[:2]
    epoch = writer.checkpoints[0].epoch
    assert store.apply(Batch(TOPIC, 0, epoch, 0, 8, T0, [7], [first])).offset == 8
    result = store.apply(Batch(TOPIC, 0, epoch, 8, 31, T0, [30], [second]))
    assert (result.outcome, result.applied, result.offset) == (Outcome.APPLIED, 1, 31)


def test_only_the_last_claimant_writes(store: FeatureStore, open_store: OpenStore) -> None:
    log = events(30)
    old = Writer(store)
    new = Writer(open_store())
    assert all(new.checkpoints[p].epoch > old.checkpoints[p].epoch for p in range(PARTITIONS))
    assert {r.outcome for r in old.apply(log)} == {Outcome.FENCED}
    assert list(store.all_items()) == []
    assert {r.outcome for r in new.apply(log)} == {Outcome.APPLIED}
    assert_holds(store, log)


def test_a_store_that_forgot_the_claim_fences(store: FeatureStore) -> None:
    assert store.apply(Batch(TOPIC, 0, 1, 0, 0, 0, [], [])).outcome is Outcome.FENCED


def test_a_claim_continues_where_the_last_one_ended(store: FeatureStore) -> None:
    log = events(60)
    results = Writer(store).apply(log)
    again = Writer(store)
    for partition, result in enumerate(results):
        own = [e.event_time_ms for e in log if partition_of(e.user_id, PARTITIONS) == partition]
        stored = again.checkpoints[partition]
        assert (stored.offset, stored.watermark_ms) == (result.offset, max(own, default=0))


def test_a_checkpoint_can_be_looked_at_without_claiming(store: FeatureStore) -> None:
    assert store.checkpoint(TOPIC, 0) is None
    writer = Writer(store)
    log = events(30)
    for partition, result in enumerate(writer.apply(log)):
        seen = store.checkpoint(TOPIC, partition)
        assert seen is not None
        assert (seen.offset, seen.epoch) == (result.offset, writer.checkpoints[partition].epoch)
        assert seen.log_id == writer.checkpoints[partition].log_id


def test_another_life_of_the_log_starts_at_zero_and_counts_nothing_twice(store: FeatureStore) -> None:
    log = events(60)
    Writer(store, "first life").apply(log)
    again = Writer(store, "second life")
    assert {c.offset for c in again.checkpoints.values()} == {0}
    assert sum(r.duplicates for r in again.apply(log)) == 60
    assert_holds(store, log)


def test_a_batch_of_dead_letters_only_moves_the_offset(store: FeatureStore) -> None:
    epoch = Writer(store).checkpoints[0].epoch
    assert store.apply(Batch(TOPIC, 0, epoch, 0, 17, 5, [], [])).offset == 17
    assert store.claim(TOPIC, 0, "log").offset == 17


def test_other_definitions_are_refused(store: FeatureStore, place: Place | None) -> None:
    store.claim(TOPIC, 0, "log")
    assert store.fingerprint() == FEATURES.fingerprint
    if place is not None:
        other = RedisFeatureStore(place.url, FeatureSet(FEATURES.features[:3]), CONFIG, place.namespace)
        for use in (
            lambda: other.claim(TOPIC, 0, "log"),
            lambda: other.user("u"),
            lambda: other.items(["i"]),
        ):
            with pytest.raises(FingerprintMismatch, match="namespace"):
                use()


USERS = [f"user {n}" for n in range(5)]  # of `events`
MERGES = [
    UserMerge("user 1", "user 0", T0),
    UserMerge("user 2", "user 1", T0 + 1),
    UserMerge("user 3", "user 4", T0),
]


def assert_unions(store: FeatureStore, log: Sequence[Event], members: dict[str, list[str]]) -> None:
    """Each user's state is that of one user who did all that the members did."""
    for user_id, ids in members.items():
        theirs = sorted((e for e in log if e.user_id in ids), key=lambda e: (e.event_time_ms, e.event_id))
        users, _ = expected([replace(e, user_id=user_id) for e in theirs])
        found = store.user(user_id)
        assert (dict(found.cells), found.histories) == (
            users[user_id].cells,
            users[user_id].histories,
        )


def test_a_user_has_the_histories_of_the_ids_merged_into_it(store: FeatureStore) -> None:
    log, writer = events(200), Writer(store)
    store.change_users([UserChange(user, User(user, {"name": user}), T0) for user in USERS[:2]])
    writer.apply(log[:150])
    alone = {user: [user] for user in USERS}
    assert_unions(store, log[:150], alone)
    versions = [store.history_version(user, "engaged") for user in USERS]

    store.merge_users(MERGES)
    merged = alone | {
        "user 0": ["user 0", "user 1", "user 2"],
        "user 1": ["user 1", "user 2"],
        "user 4": ["user 3", "user 4"],
    }
    assert_unions(store, log[:150], merged)
    assert store.user("user 0").attributes == {"name": "user 0"}, "those of the user alone"
    after = [store.history_version(user, "engaged") for user in USERS]
    assert [old != new for old, new in zip(versions, after, strict=True)] == [True, True, False, False, True]

    writer.apply(log[150:])  # what the merged ids have done arrives late
    assert_unions(store, log, merged)
    assert store.history_version("user 0", "engaged") != after[0]


def test_merges_count_once_in_any_order_and_the_first_one_stays(store: FeatureStore) -> None:
    log = events(100)
    Writer(store).apply(log)
    late = [replace(merge, changed_ms=merge.changed_ms + 5) for merge in MERGES]
    elsewhere = [UserMerge("user 1", "user 4", T0 + 2), UserMerge("user 0", "user 2", T0 + 9)]
    every = [*late, *MERGES, *elsewhere, *MERGES]
    random.Random(3).shuffle(every)
    for merge in every:
        store.merge_users([merge])
    store.merge_users(every)
    store.merge_users([])
    circle = ["user 0", "user 1", "user 2"]
    assert_unions(store, log, {**dict.fromkeys(circle, circle), "user 4": ["user 3", "user 4"]})
    assert store.links("user 1") == Links(((T0, "user 0"), (T0 + 2, "user 4")), ((T0 + 1, "user 2"),))
    assert store.links("user 1").owner == "user 0"
    assert store.links("user 4").merged == ((T0, "user 3"), (T0 + 2, "user 1"))
    assert store.links("nobody") == Links()


def test_of_many_merged_ids_the_first_count(store: FeatureStore) -> None:
    clicks = [Event(f"e{n}", EventType.CLICK, f"anon-{n:02}", f"i{n}", T0 + n) for n in range(20)]
    Writer(store).apply(clicks)
    store.merge_users([UserMerge(e.user_id, "u", T0 - n) for n, e in enumerate(clicks)])
    assert [v.item_id for v in store.user("u").histories["seen"]] == [f"i{n}" for n in range(4, 20)]
    assert len(store.links("u").merged) == 20


def test_of_a_forgotten_id_no_merge_remains_and_none_comes_back(store: FeatureStore) -> None:
    log, known = events(100), [user for user in USERS if user != "user 1"]
    Writer(store).apply(log)
    store.merge_users(MERGES)
    store.merge_users([UserMerge("user 1", "user 4", T0 + 3)])  # does not count, but names the id
    assert store.forget_user("user 1", T0 + 10)
    assert [id_ for _, id_ in store.links("user 4").merged] == ["user 3"]
    assert store.links("user 0") == store.links("user 2") == store.links("user 1") == Links()
    assert_unions(store, log, {user: [user] for user in known if user not in ("user 3", "user 4")})
    store.merge_users(MERGES)  # sent before
    assert store.links("user 0") == store.links("user 2") == store.links("user 1") == Links()
    assert store.links("user 4").merged, "others are not concerned"
    old, again = (UserMerge("user 1", "user 0", T0 + since) for since in (9, 11))
    store.merge_users([again])
    store.merge_users([old, again])  # read again: what was forgotten does not touch what came later
    store.merge_users([old])
    assert store.links("user 0").merged == ((T0 + 11, "user 1"),)
    assert store.links("user 1").into == ((T0 + 11, "user 0"),)


LOG_PARTITIONS = 5  # of a topic that has grown


def events_anywhere(n: int, seed: int) -> list[list[Event]]:
    """Of each log partition: most events where Kafka's partitioner puts them with the new number of partitions, or with
    the old one, some elsewhere, some twice."""
    rng, log = random.Random(seed), [list[Event]() for _ in range(LOG_PARTITIONS)]
    for event in events(n, seed, users=12):
        for _ in range(rng.choice((1, 1, 1, 2))):
            user = event.user_id
            places = (*[partition_of(user, LOG_PARTITIONS)] * 4, *[partition_of(user, PARTITIONS)] * 3)
            log[rng.choice((*places, rng.randrange(LOG_PARTITIONS)))].append(event)
    return log


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_events_may_come_by_any_partition_and_any_worker(open_store: OpenStore, seed: int) -> None:
    rng, log, owners = random.Random(seed), events_anywhere(240, seed), dict[int, Writer]()
    clients = [open_store() for _ in range(2)]
    writers = [Writer(client) for client in clients]
    for number in range(PARTITIONS, LOG_PARTITIONS):
        with pytest.raises(InvalidConfig, match="recsys topics grow"):
            clients[0].claim(TOPIC, number, "log")
        assert clients[0].add_partition(TOPIC, number, "log", T0)
        added = clients[1].checkpoint(TOPIC, number)
        assert added is not None and (added.offset, added.watermark_ms) == (0, T0)
    applied = duplicates = 0
    while any(owner not in owners or _offset(owners[owner], owner) < len(log[owner]) for owner in range(5)):
        number = rng.randrange(LOG_PARTITIONS)
        if number not in owners or rng.random() < 0.2:
            before, owners[number] = owners.get(number), rng.choice(writers)
            stale = before.checkpoints.get(number) if before else None
            owners[number].checkpoints[number] = owners[number].store.claim(TOPIC, number, "log")
            if before is not None and stale is not None and before is not owners[number]:
                before.checkpoints[number] = stale
                late = before.batch(number, log[number][stale.offset :][:2])
                assert before.store.apply(late).outcome is Outcome.FENCED
        owner = owners[number]
        stored = owner.checkpoints[number]
        batch = owner.batch(number, log[number][stored.offset :][: rng.randrange(1, 8)])
        done = owner.store.apply(batch)
        assert done.outcome is Outcome.APPLIED
        applied, duplicates = applied + done.applied, duplicates + done.duplicates
        owner.checkpoints[number] = replace(stored, offset=batch.next_offset)
    unique = {event.event_id: event for run in log for event in run}
    assert_holds(clients[0], list(unique.values()))
    assert (applied, applied + duplicates) == (len(unique), sum(map(len, log)))


def _offset(writer: Writer, partition: int) -> int:
    return writer.checkpoints[partition].offset


def test_one_event_comes_by_two_topics(store: FeatureStore) -> None:
    """A replay sends impressions as events."""
    shown = Event("1", EventType.IMPRESSION, "u", "i", T0)
    where = partition_of("u", PARTITIONS)
    for topic in ("impressions", "events"):
        epoch = store.claim(topic, where, "log").epoch
        store.apply(Batch(topic, where, epoch, 0, 1, T0, [0], [shown]))
    assert_holds(store, [shown])


def test_changed_items_are_told_once(store: FeatureStore) -> None:
    writer = Writer(store)
    cursor, changed = store.changed_items("", 0)
    assert changed == set()
    log = events(20)
    writer.apply(log)
    told: set[str] = set()
    for _ in range(PARTITIONS):
        cursor, changed = store.changed_items(cursor, 10)
        assert changed is not None
        told |= changed
    assert told == {e.item_id for e in log if FEATURES.fold(e).item}
    assert store.changed_items(cursor, 10) == (cursor, set())


def test_a_reader_waits_for_the_next_change(store: FeatureStore, open_store: OpenStore) -> None:
    writer = Writer(store)
    cursor, _ = store.changed_items("", 0)
    click = Event("1", EventType.CLICK, "u", "i", T0)
    timer = threading.Timer(0.1, lambda: writer.apply([click]))
    timer.start()
    reader = open_store()
    _, changed = next(found for found in (reader.changed_items(cursor, 2_000) for _ in count()) if found[1])
    timer.join()
    assert changed == {"i"}


def test_a_reader_that_was_away_too_long_is_told(store: FeatureStore) -> None:
    writer = Writer(store)
    cursor, _ = store.changed_items("", 0)
    click = [Event(str(i), EventType.CLICK, "u", f"i{i}", T0) for i in range(400)]
    for event in click[:2]:
        writer.apply([event])
    _, changed = store.changed_items(cursor, 0)
    assert changed == {"i0", "i1"}
    for event in click[2:]:
        writer.apply([event])
    newest, changed = store.changed_items(cursor, 0)
    assert changed is None
    assert store.changed_items(newest, 0) == (newest, set())


def test_a_forgotten_user_is_gone(store: FeatureStore) -> None:
    log = events(200)
    Writer(store).apply(log)
    user, other = log[0].user_id, next(e.user_id for e in log if e.user_id != log[0].user_id)
    assert store.forget_user(user) is True
    assert store.user(user) == EntityState()
    assert store.user(other) == expected(log)[0][other]
    assert store.forget_user(user) is False


def test_what_was_under_way_does_not_bring_a_forgotten_user_back(store: FeatureStore) -> None:
    """Known to a writer from before, and to one that starts afterwards."""

    def click(number: int, at: int) -> Event:
        return Event(f"{at}-{number}", EventType.CLICK, "u", "i", at)

    writer = Writer(store)
    writer.apply([click(1, T0), Event("other", EventType.CLICK, "v", "i", T0)])
    assert store.forget_user("u", T0 + 10) is True
    for late in (writer, Writer(store)):
        late.apply([click(2, T0 + 5), click(3, T0 + 10)])
        store.change_users([UserChange("u", User("u", {"age": "31"}), T0 + 10)])
        assert store.user("u") == EntityState()
    assert store.user("v").cells
    Writer(store).apply([click(2, T0 + 5), click(4, T0 + 11)])
    store.change_users([UserChange("u", User("u", {"age": "32"}), T0 + 11)])
    state = store.user("u")
    assert [visit.event_time_ms for visit in state.histories["engaged"]] == [T0 + 11]
    assert state.attributes == {"age": "32"}


def test_the_newest_attributes_of_a_user_count_until_the_user_goes(store: FeatureStore) -> None:
    def put(at: int, attributes: dict[str, str] | None) -> None:
        store.change_users([UserChange("u", None if attributes is None else User("u", attributes), at)])

    Writer(store).apply([Event("1", EventType.CLICK, "u", "i", T0)])
    state = store.user("u")
    assert state.attributes is None
    put(10, {"age": "31", "Ä": ""})
    put(9, {"age": "30"})
    assert store.user("u") == replace(state, attributes={"age": "31", "Ä": ""})
    put(10, {})  # of the same time: the later one
    assert store.user("u").attributes == {}
    put(9, None)
    assert store.user("u").attributes == {}
    put(11, None)
    assert store.user("u") == state
    put(12, {"age": "32"})
    store.change_users([UserChange(f"u{n}", User(f"u{n}", {"n": str(n)}), 1) for n in range(9)])
    assert [store.user(f"u{n}").attributes for n in range(9)] == [{"n": str(n)} for n in range(9)]
    assert store.forget_user("u") is True
    assert store.user("u") == EntityState()
    assert store.forget_user("u0") is True  # who has attributes alone is somebody, too
    store.change_users([])


def test_the_catalogue_is_kept_and_its_changes_are_told(store: FeatureStore) -> None:
    cursor, _ = store.changed_items("", 0)
    items = [Item("a", "Ä", ("Action", "Drama"), "c", 5, {"year": "1999"}, titles={"de": "Ä"}), Item("b")]
    store.change_items([ItemChange(item.item_id, item, 10) for item in items])
    assert dict(store.catalogue()) == {item.item_id: item for item in items}
    gone = [ItemChange(item_id, None, 20) for item_id in ("a", "unknown")]
    store.change_items([ItemChange("b", Item("b", "new"), 20), *gone])
    left = {"a": None, "b": Item("b", "new"), "unknown": None}
    assert dict(store.catalogue()) == left
    assert dict(store.catalogue(["b", "a", "never"])) == {"a": None, "b": Item("b", "new")}
    assert list(store.catalogue([])) == []
    _, changed = store.changed_items(cursor, 0)
    assert changed == {"a", "b", "unknown"}
    store.change_items([])


def test_an_older_change_of_an_item_changes_nothing_and_a_repeated_one_is_not_told(
    store: FeatureStore,
) -> None:
    put, gone = ItemChange("a", Item("a", "one"), 10), ItemChange("a", None, 20)
    store.change_items([put, gone, put])
    assert dict(store.catalogue()) == {"a": None}
    cursor, _ = store.changed_items("", 0)
    store.change_items([put, gone])  # a worker reads the log again
    assert store.changed_items(cursor, 0)[1] == set()
    later = ItemChange("a", Item("a", "at the same time"), 20)  # the order of the log decides
    store.change_items([later])
    assert dict(store.catalogue()) == {"a": later.item}
    many = [ItemChange(f"i{n}", Item(f"i{n}"), 1) for n in range(1200)]
    store.change_items(many)
    assert len(dict(store.catalogue())) == 1201


def test_the_version_of_a_history_changes_with_it_and_only_with_it(store: FeatureStore) -> None:
    def version() -> str:
        return store.history_version("u", "engaged")

    def event(kind: EventType, name: str, at: int = T0) -> Event:
        return Event(name, kind, "u", f"item-{name}", at)

    writer = Writer(store)
    seen = [version()]
    assert seen == [""]
    for name, at in (("a", T0), ("b", T0 + 5), ("late", T0 + 2)):
        writer.apply([event(EventType.CLICK, name, at)])
        seen.append(version())
    assert len(set(seen)) == 4
    writer.apply([event(EventType.IMPRESSION, "shown")])
    writer.apply([event(EventType.CLICK, "a")])  # a duplicate
    assert version() == seen[-1]
    writer.apply([event(EventType.CLICK, f"many-{n}", T0 + 10 + n) for n in range(SEEN_VISITS.size)])
    full = version()
    writer.apply([event(EventType.CLICK, "late-into-a-full-one", T0 + 10 + SEEN_VISITS.size - 3)])
    assert version() != full


def test_attributes_that_are_put_change_the_version_of_every_history(store: FeatureStore) -> None:
    versions = [store.history_version("u", "engaged")]
    for at in (1, 2):
        store.change_users([UserChange("u", User("u", {"n": "1"}), at)])
        versions.append(store.history_version("u", "engaged"))
    assert len(set(versions)) == 3
    Writer(store).apply([Event("a", EventType.CLICK, "u", "item", T0)])
    assert store.history_version("u", "engaged") not in versions


def test_workers_report_of_themselves_while_they_live(store: FeatureStore, open_store: OpenStore) -> None:
    assert store.reports() == {}
    store.report("a", b"\x00one", 60_000)
    store.report("a", b"two", 60_000)
    other = open_store()
    other.report("b", b"b", 20)
    time.sleep(0.05)  # b's has expired
    assert store.reports() == other.reports() == {"a": b"two"}
    store.leave("a")
    assert other.reports() == {}


def test_workers_see_who_lives(store: FeatureStore, open_store: OpenStore) -> None:
    assert store.workers("b", 60_000) == ["b"]
    assert open_store().workers("a", 60_000) == ["a", "b"]
    store.leave("a")
    store.leave("unknown")
    assert store.workers("b", 60_000) == ["b"]
    time.sleep(0.05)
    assert store.workers("c", 20) == ["c"]  # the others have been silent for longer than that
