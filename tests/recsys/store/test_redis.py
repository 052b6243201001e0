"""What only the Redis store has: bounds, namespaces, a server that goes away."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import pytest
import redis

from infra.local.redis import RedisServer
from recsys.contracts.errors import FingerprintMismatch, InvalidConfig, Unavailable
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.state import MAX_SUM, Delta, EntityState, Op
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, EventType
from recsys.features.aggregates import parse_cell
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import Folded
from recsys.store.base import Applied, Batch, Outcome, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from recsys.store.redis_forgotten import ForgottenMarks

pytestmark = pytest.mark.redis

T0 = 1_700_000_000_000
CONFIG = StoreConfig(partitions=1)


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


class Feeder:
    """Applies events to the one partition, one batch a call."""

    def __init__(self, store: RedisFeatureStore) -> None:
        self.store = store
        self._epoch = store.claim("events", 0, "log").epoch
        self._offset = 0
        self._watermark = 0

    def apply(self, *events: Event) -> Applied:
        previous, self._offset = self._offset, self._offset + len(events)
        self._watermark = max([self._watermark, *(e.event_time_ms for e in events)])
        offsets = range(previous, self._offset)
        return self.store.apply(
            Batch("events", 0, self._epoch, previous, self._offset, self._watermark, offsets, events)
        )


def click(number: int, time_ms: int, user: str = "u", item: str = "i") -> Event:
    return Event(f"{number}", EventType.CLICK, user, item, time_ms, context={"categories": "A"})


def test_tiles_that_no_window_reaches_are_removed(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    feeder = Feeder(store)
    days = 400
    for number in range(days * 4):
        feeder.apply(click(number, T0 + number * MS_PER_DAY // 4))
    state, now = store.user("u"), T0 + days * MS_PER_DAY
    retention = {a.name: (a.hop_ms, a.retention_ms) for a in FEATURES.aggregates if a.entity == "user"}
    every = EntityState()
    for number in range(days * 4):
        for delta in FEATURES.fold(click(number, T0 + number * MS_PER_DAY // 4)).user:
            every.change(delta)
    needed = {
        name: value
        for name, value in every.cells.items()
        if (cell := parse_cell(name)).tile < 0
        or cell.tile >= (now - retention[cell.name][1]) // retention[cell.name][0]
    }
    assert needed.items() <= state.cells.items()  # nothing that a reader needs is gone
    assert len(state.cells) < len(needed) + 2 * 64 < len(every.cells) / 4
    assert client.hlen("recsys:{0}:i:i") < 400


class Stars:
    """Feature definitions under which an event adds its `value` to the item's stars."""

    fingerprint, aggregates, histories = FEATURES.fingerprint, FEATURES.aggregates, FEATURES.histories

    def fold(self, event: Event) -> Folded:
        return Folded([], [Delta("stars", Op.ADD, int(event.value or 0))], [])


def test_sums_saturate_in_a_batch_a_share_and_over_shares(redis_url: str) -> None:
    store = RedisFeatureStore(redis_url, Stars(), StoreConfig(partitions=2))
    for partition in range(2):
        user = next(name for name in "uvwx" if partition_of(name, 2) == partition)
        epoch = store.claim("t", partition, "log").epoch
        for n, amounts in enumerate([(MAX_SUM - 1, 1), (MAX_SUM, 3), (1,)]):
            rated = [Event(f"{n} {a}", EventType.RATING, user, "i", T0, value=a) for a in amounts]
            rated.append(Event(f"{n}", EventType.RATING, user, "exact", T0, value=500_000_000_001))
            store.apply(Batch("t", partition, epoch, n, n + 1, T0, [n] * len(rated), rated))
    assert [state.cells["stars"] for state in store.items(["i", "exact"])] == [MAX_SUM, 3_000_000_000_006]
    store.close()


def test_event_ids_are_forgotten_behind_the_watermark(redis_url: str, client: Any) -> None:
    feeder = Feeder(RedisFeatureStore(redis_url, FEATURES, CONFIG))
    for hour in range(100):
        feeder.apply(click(hour, T0 + hour * MS_PER_HOUR))
    buckets = client.keys("recsys:{0}:d:events:*")
    # one more remembers until the day ends who has counted today
    assert len(buckets) == CONFIG.dedupe_ms // CONFIG.dedupe_bucket_ms + 1 + 1
    assert client.zcard("recsys:{0}:d:events") == len(buckets)
    assert feeder.apply(click(80, T0 + 80 * MS_PER_HOUR)).duplicates == 1


def test_histories_of_the_same_types_are_stored_once(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    Feeder(store).apply(*(click(n, T0 + n) for n in range(60)))
    assert client.keys("recsys:{0}:h:*") == ["recsys:{0}:h:seen:u"]
    histories = store.user("u").histories
    assert histories["engaged"] == histories["seen"][-50:]


def test_idle_state_expires(redis_url: str, client: Any) -> None:
    Feeder(RedisFeatureStore(redis_url, FEATURES, CONFIG)).apply(click(1, T0))
    for key in ("u:u", "i:i", "h:seen:u"):
        assert 0 < client.pttl(f"recsys:{{0}}:{key}") <= CONFIG.idle_ms


def test_the_change_stream_is_bounded(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=1, changes=10))
    feeder = Feeder(store)
    for number in range(500):
        feeder.apply(click(number, T0 + number * MS_PER_MINUTE, item=f"i{number}"))
    assert client.xlen("recsys:{0}:changed") < 200  # trimmed by whole nodes


def test_namespaces_do_not_see_each_other(redis_url: str) -> None:
    one, other = (RedisFeatureStore(redis_url, FEATURES, CONFIG, namespace) for namespace in ("one", "other"))
    Feeder(one).apply(click(1, T0))
    assert other.user("u") == EntityState()
    assert other.fingerprint() is None
    assert dict(one.all_items()).keys() == {"i"}
    assert list(other.all_items()) == []


def test_all_keys_of_a_partition_share_its_hash_tag(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    Feeder(store).apply(*(click(n, T0 + n, f"u{n}", f"{{x}}{n}") for n in range(5)))
    keys = set(client.keys("*")) - {"recsys:meta"}
    assert len(keys) > 10
    assert all(key.startswith("recsys:{0}:") for key in keys)
    assert len({client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1


def test_a_store_of_the_layout_before_is_refused(redis_url: str, client: Any) -> None:
    client.hset("recsys:meta", mapping={"fingerprint": FEATURES.fingerprint, "partitions": 1})
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    for use in (lambda: store.claim("events", 0, "log"), lambda: store.user("u")):
        with pytest.raises(FingerprintMismatch, match="backfill"):
            use()
    assert store.fingerprint() == FEATURES.fingerprint


def test_a_batch_of_any_size_is_applied(redis_url: str) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    feeder = Feeder(store)
    log = [click(n, T0 + n * MS_PER_HOUR // 1_000, item=f"i{n % 7}") for n in range(9_000)]
    log += [click(n, T0, "other", f"i{n}") for n in range(9_000, 9_010)]
    assert feeder.apply(*log).applied == len(log)
    assert feeder.apply(*log[::2]).duplicates == len(log) / 2
    assert sum(state.cells["lastengaged"] > T0 for _, state in store.all_items()) == 7


def test_a_server_that_is_away_is_unavailable_and_then_works_again() -> None:
    with RedisServer() as server:
        store = RedisFeatureStore(server.url, FEATURES, CONFIG, timeout_s=2.0)
        feeder = Feeder(store)
        feeder.apply(click(1, T0))
        server.kill()
        for use in (lambda: store.user("u"), store.ping, lambda: feeder.apply(click(2, T0))):
            with pytest.raises(Unavailable, match="Redis"):
                use()
        server.start()  # empty, and without the scripts
        assert feeder.apply(click(3, T0)).outcome is Outcome.FENCED
        Feeder(store).apply(click(1, T0))
        assert store.user("u").histories["seen"][0].event_id == "1"
        store.close()


def test_a_full_server_is_unavailable_and_changes_nothing() -> None:
    with RedisServer() as server:
        store = RedisFeatureStore(server.url, FEATURES, CONFIG)
        feeder = Feeder(store)
        feeder.apply(click(1, T0))
        before = store.user("u")
        limit = redis.Redis.from_url(server.url)
        limit.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable, match="maxmemory"):
            feeder.apply(click(2, T0 + 1))
        assert store.user("u") == before
        limit.config_set("maxmemory", "0")
        limit.close()
        store.close()


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="redis_url"):
        RedisFeatureStore("localhost:6379", FEATURES)


def test_an_id_of_one_event_expires_before_one_with_a_history(redis_url: str, client: Any) -> None:
    feeder = Feeder(RedisFeatureStore(redis_url, FEATURES, CONFIG))
    feeder.apply(
        click(0, T0, "once", "rare"), *(click(i, T0 + i * MS_PER_DAY, "often", "i") for i in range(9))
    )
    kept = {"u:once": 30, "h:seen:once": 30, "i:rare": 30, "u:often": 400, "h:seen:often": 400, "i:i": 400}
    ttl = {key: client.ttl(f"recsys:{{0}}:{key}") for key in kept}
    assert {key: round(s * 1_000 / MS_PER_DAY) for key, s in ttl.items()} == kept
    assert client.zrange("recsys:{0}:users", 0, -1) == ["once", "often"]  # by when they expire
    assert client.zrange("recsys:{0}:items", 0, -1) == ["rare", "i"]


def test_the_lists_of_ids_shrink(redis_url: str, client: Any) -> None:
    feeder = Feeder(RedisFeatureStore(redis_url, FEATURES, CONFIG))
    feeder.apply(click(0, T0, "gone", "lost"))
    client.zadd("recsys:{0}:users", {"gone": 1})  # as if their time had come
    client.zadd("recsys:{0}:items", {"lost": 1})
    feeder.apply(click(1, T0, "next", "new"))
    assert client.zscore("recsys:{0}:users", "gone") is client.zscore("recsys:{0}:items", "lost") is None


def test_beyond_the_bound_the_next_to_expire_go_with_their_states(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=1, max_users=2, max_items=2))
    feeder = Feeder(store)
    feeder.apply(*(click(i, T0 + i * MS_PER_DAY) for i in range(9)))  # of "u" on "i", who stay
    for number in range(9, 14):
        feeder.apply(click(number, T0 + 9 * MS_PER_DAY, f"made-up-{number}", f"fake-{number}"))
    assert set(store.user_ids()) == {"u", "made-up-13"}
    assert {item for item, _ in store.all_items()} == {"i", "fake-13"}
    assert not client.keys("*made-up-9*")
    assert store.forget_user("u")
    assert client.zscore("recsys:{0}:users", "u") is None


def test_the_bound_is_of_the_whole_store_however_many_partitions_the_topics_have(redis_url: str) -> None:
    made = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=2, max_users=8))
    made.claim("events", 0, "log")
    grown = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=8, max_users=8))
    users = [user for n in range(99) if partition_of(user := f"u{n}", 2) == 0][:4]
    Feeder(grown).apply(*(click(n, T0 + n, user) for n, user in enumerate(users)))
    assert set(grown.user_ids()) == set(users), (
        "four of eight are in each of two parts, not one in each of eight"
    )


def test_users_are_found_once_by_one_scan(
    redis_url: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=8))
    users = {f"user {n}" for n in range(30)} | {"a}:u:b", "{0}:u:"}
    for user in users:
        partition = partition_of(user, 8)
        claim = store.claim("events", partition, "log")
        n = claim.offset
        store.apply(Batch("events", partition, claim.epoch, n, n + 1, T0, [n], [click(n, T0, user)]))
    client.set("recsys:{nightly}:u:somebody", "{}")
    client.set("recsys:{9}:u:somebody", "of another number of partitions")
    client.config_resetstat()
    assert sorted(store.user_ids()) == sorted(users)
    assert client.info("commandstats")["cmdstat_scan"]["calls"] == 1

    scan = store._redis.scan_iter  # a scan repeats keys while the server resizes its table: not at will

    def repeated(*args: Any, **options: Any) -> Iterator[bytes]:
        return chain(scan(*args, **options), scan(*args, **options))

    monkeypatch.setattr(store._redis, "scan_iter", repeated)
    assert sorted(store.user_ids()) == sorted(users)
    store.close()


class Crash(Exception):
    pass


def _work(store: RedisFeatureStore, log: Sequence[Event], until: int) -> None:
    """Apply the log of partition 2, which the topic has got, up to that offset."""
    claim = store.claim("events", 2, "log")
    for first in range(claim.offset, until, 3):
        applied = store.apply(_batch(log, claim.epoch, first, min(first + 3, until)))
        assert applied.outcome is Outcome.APPLIED


def _grown(redis_url: str) -> tuple[RedisFeatureStore, list[Event]]:
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=2))
    for partition in range(2):
        store.claim("events", partition, "log")
    store.add_partition("events", 2, "log", T0)
    return store, [click(n, T0, f"u{n % 7}") for n in range(24)]


def test_a_crash_between_the_parts_of_a_batch_counts_nothing_twice(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = _grown(redis_url)
    whole, calls = RedisFeatureStore._apply_part, itertools.count()

    def dies(self: RedisFeatureStore, *arguments: Any) -> Applied:
        if (call := next(calls)) % 5 == 3:
            raise Crash
        done = whole(self, *arguments)
        if call % 7 == 4:
            raise Crash
        return done

    monkeypatch.setattr(RedisFeatureStore, "_apply_part", dies)
    died = 0
    while True:
        with suppress(Crash):
            _work(RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=2)), log, len(log))
            break
        died += 1
    assert died > 3
    monkeypatch.undo()
    _assert_clicks(store, log)


def _batch(log: Sequence[Event], epoch: int, first: int, until: int) -> Batch:
    return Batch("events", 2, epoch, first, until, T0, range(first, until), log[first:until])


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_that_loses_its_last_batches_gets_them_again(redis_url: str, part: int) -> None:
    """As a node of a Cluster that fails over loses what was not replicated."""
    store, log = _grown(redis_url)
    _work(store, log, 9)
    epoch = store.claim("events", 2, "log").epoch
    raw: Any = redis.Redis.from_url(redis_url)
    kept = {key: raw.dump(key) for key in raw.keys(f"recsys:{{{part}}}:*")}
    assert store.apply(_batch(log, epoch, 9, 18)).outcome is Outcome.APPLIED
    for key in raw.keys(f"recsys:{{{part}}}:*"):
        raw.delete(key)
    for key, content in kept.items():
        raw.restore(key, 0, content)
    raw.close()
    assert store.apply(_batch(log, epoch, 18, len(log))).outcome is Outcome.GAP
    _work(store, log, len(log))
    _assert_clicks(store, log)


def _assert_clicks(store: RedisFeatureStore, log: Sequence[Event]) -> None:
    memory = MemoryFeatureStore(FEATURES, StoreConfig(partitions=1))
    epoch = memory.claim("events", 0, "log").epoch
    memory.apply(Batch("events", 0, epoch, 0, len(log), T0, range(len(log)), log))
    for user in {event.user_id for event in log}:
        assert store.user(user) == memory.user(user)
    assert dict(store.all_items()) == dict(memory.all_items())


def test_a_fenced_worker_begins_no_part(redis_url: str) -> None:
    """It has not heard of the part where its successor writes already."""
    stale, log = _grown(redis_url)
    epoch = stale.claim("events", 2, "log").epoch
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=2))
    later = store.claim("events", 2, "log").epoch
    assert store.apply(_batch(log, later, 0, 9)).outcome is Outcome.APPLIED
    assert stale.apply(_batch(log, epoch, 0, 9)).outcome is Outcome.FENCED
    assert store.apply(_batch(log, later, 9, len(log))).outcome is Outcome.APPLIED
    _assert_clicks(store, log)


def test_ids_are_kept_while_any_partition_of_the_part_needs_them(redis_url: str, client: Any) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    ahead = Feeder(store)
    store.add_partition("events", 1, "log", T0)
    behind = store.claim("events", 1, "log").epoch

    def send(offset: int, event: Event, watermark_ms: int) -> Applied:
        return store.apply(Batch("events", 1, behind, offset, offset + 1, watermark_ms, [offset], [event]))

    old, later = click(1, T0), T0 + 10 * MS_PER_DAY
    assert send(0, old, T0).applied == 1
    ahead.apply(click(2, later))
    assert send(1, old, T0).duplicates == 1
    assert send(2, click(3, later), later).applied == 1
    ahead.apply(click(4, later + MS_PER_DAY // 12))
    assert {key.split(":")[-1] for key in client.keys("recsys:{0}:d:events:*")} >= {str(later // MS_PER_HOUR)}
    assert not client.exists(f"recsys:{{0}}:d:events:{T0 // MS_PER_HOUR}")


def test_a_store_keeps_the_number_of_parts_that_it_was_made_with(redis_url: str) -> None:
    wide = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions=3))
    cursor, _ = wide.changed_items("", 0)
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    Feeder(store).apply(click(1, T0))
    assert wide.user("u") == store.user("u") != EntityState()
    cursor, changed = wide.changed_items(cursor, 0)  # the store was empty: of other parts than it has now
    assert changed is None
    Feeder(store).apply(click(2, T0))
    assert dict(wide.all_items()) == dict(store.all_items())


def test_marks_that_another_thread_reads_meanwhile_hide_no_forgotten_user(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's threads share what is known of forgotten users: a batch names the marks that it was made by."""
    store = RedisFeatureStore(redis_url, FEATURES, CONFIG)
    feeder = Feeder(store)
    feeder.apply(click(0, T0))
    assert store.forget_user("u", T0 + 10)
    without = ForgottenMarks.without

    def meanwhile(marks: ForgottenMarks, *given: Any) -> Any:
        found = without(marks, *given)
        marks.read(0)
        return found

    monkeypatch.setattr(ForgottenMarks, "without", meanwhile)
    applied = feeder.apply(click(1, T0 + 5), click(2, T0 + 5, "v"))
    assert (applied.applied, applied.skipped) == (1, 1)
    assert store.user("u") == EntityState()
    assert store.user("v").cells
