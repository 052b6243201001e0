"""The archiver neither loses nor duplicates records, wherever it crashes."""

import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.contracts.event_log import Record, partition_of
from recsys.contracts.events import Event, derived_id
from recsys.contracts.impressions import Impression, ShownItem, impression_events
from recsys.contracts.merges import UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import GROWING
from recsys.contracts.types import MS_PER_DAY, EventType, Item, Topic, User
from recsys.datasets.catalogue import items_path, read_users, users_path, users_table
from recsys.datasets.changed import change_times
from recsys.items.item_table import read_items
from recsys.lake.forget import mark_forgotten, user_digest
from recsys.lake.lake import EVENTS, IMPRESSIONS, count_rows, days, read_day, read_events, write_parquet
from recsys.lake.merges import read_merges
from streaming.acceptance import REPLAY_HEADER
from streaming.lake_writer.archive import Archiver
from streaming.lake_writer.commit import (
    FOLDER,
    HEARTBEAT,
    add_partitions,
    exclusive,
    read_checkpoint,
    stopped_partitions,
)
from streaming.lake_writer.compact import compact
from tests.memory_event_log import MemoryEventLog, MemoryEventSource
from tests.traces_of import files_with

START_MS = 1_700_000_000_000


def event(n: int) -> Event:
    time_ms = START_MS + n * MS_PER_DAY // 40
    return Event(derived_id(time_ms, n), EventType.CLICK, f"user-{n % 13}", f"item-{n % 5}", time_ms)


def send(log: MemoryEventLog, *events: Event) -> None:
    for each in events:
        log.append(Topic.EVENTS, each.user_id, msgspec.json.encode(each.to_dict()))


def drain(archiver: Archiver) -> None:
    while archiver.step(0.0):
        pass
    archiver.flush()


def test_events_of_several_days_and_partitions_come_back_in_order(tmp_path: Path) -> None:
    log, events = MemoryEventLog(), [event(n) for n in range(100)]
    send(log, *reversed(events))
    archiver = Archiver(log.source(), tmp_path, rules=TimeRules(late_ms=3 * MS_PER_DAY))
    drain(archiver)
    assert list(read_events(tmp_path)) == events
    assert len(days(tmp_path)) == 4
    assert archiver.totals.archived == archiver.totals.rows == 100


def test_rows_carry_partition_and_offset(tmp_path: Path) -> None:
    log = MemoryEventLog(partitions=2)
    send(log, *(event(n) for n in range(20)))
    drain(Archiver(log.source(), tmp_path))
    for day in days(tmp_path):
        for row in read_day(tmp_path, day).to_pylist():
            (record,) = log.read(Topic.EVENTS, row["partition"], row["offset"], 1)
            assert msgspec.json.decode(record.value)["event_id"] == row["event_id"]


def test_a_new_archiver_continues_at_the_checkpoint(tmp_path: Path) -> None:
    log = MemoryEventLog()
    for n in range(0, 90, 30):
        send(log, *(event(i) for i in range(n, n + 30)))
        drain(Archiver(log.source(), tmp_path))
    drain(Archiver(log.source(), tmp_path))
    assert count_rows(tmp_path) == 90


def test_impressions_become_served_features_and_impression_events(tmp_path: Path) -> None:
    log = MemoryEventLog()
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    items = (ShownItem("a", 0, 0.5, channels=("ann",)), ShownItem("b", 1, 0.25, categories=("X",)))
    shown = Impression("r1", "u", START_MS, "b1", "f1", items, features)
    log.append(Topic.IMPRESSIONS, "u", msgspec.json.encode(shown.to_dict()))
    drain(Archiver(log.source(), tmp_path))
    (day,) = days(tmp_path, IMPRESSIONS)
    rows = sorted(read_day(tmp_path, day, IMPRESSIONS).to_pylist(), key=lambda row: row["position"])
    assert [row["item_id"] for row in rows] == ["a", "b"]
    assert [row["features"] for row in rows] == features.tolist()
    expected = impression_events(shown)
    assert [row["event_id"] for row in rows] == [e.event_id for e in expected]
    assert sorted(read_events(tmp_path), key=lambda e: e.position or 0) == expected


def test_item_changes_become_the_item_table(tmp_path: Path) -> None:
    def change(item_id: str, item: Item | None, at: int) -> None:
        log.append(Topic.ITEMS, item_id, msgspec.json.encode(ItemChange(item_id, item, at).to_dict()))

    log = MemoryEventLog()
    for n, item_id in enumerate("dbca"):
        change(item_id, Item(item_id, f"Film {n}", ("A",), attributes={"year": "1999"}), 1 + n)
    archiver = Archiver(log.source(), tmp_path)
    drain(archiver)
    assert [item.item_id for item in read_items(items_path(tmp_path))] == ["a", "b", "c", "d"]
    change("b", None, 10)
    change("c", Item("c", "another title"), 11)
    change("c", Item("c", "late"), 5)
    change("never", None, 12)
    change("e", Item("e"), 13)
    drain(archiver)
    drain(Archiver(log.source(), tmp_path))
    assert {item.item_id: item.title for item in read_items(items_path(tmp_path))} == {
        "a": "Film 3",
        "c": "another title",
        "d": "Film 0",
        "e": "",
    }
    assert read_items(items_path(tmp_path))[0].attributes == {"year": "1999"}
    assert archiver.totals.archived == 9


def test_a_redelivered_old_item_change_has_no_effect(tmp_path: Path) -> None:
    def deliver(item_id: str, item: Item | None, at: int) -> None:
        log.append(Topic.ITEMS, item_id, msgspec.json.encode(ItemChange(item_id, item, at).to_dict()))
        drain(Archiver(log.source(), tmp_path))  # each in a commit of its own, by an archiver of its own

    log = MemoryEventLog()
    deliver("a", Item("a", "old"), 1)
    deliver("a", Item("a", "new"), 2)
    deliver("a", Item("a", "old"), 1)
    deliver("gone", Item("gone"), 3)
    deliver("gone", None, 4)
    deliver("gone", Item("gone"), 3)
    assert [(item.item_id, item.title) for item in read_items(items_path(tmp_path))] == [("a", "new")]
    deliver("a", Item("a", "of the same time"), 2)
    deliver("gone", Item("gone", "again"), 5)
    assert [item.title for item in read_items(items_path(tmp_path))] == ["of the same time", "again"]


def test_user_changes_become_the_user_table_and_nothing_of_a_deleted_user_stays(tmp_path: Path) -> None:
    def deliver(user_id: str, attributes: dict[str, str] | None, at: int) -> None:
        user = None if attributes is None else User(user_id, attributes)
        log.append(Topic.USERS, user_id, msgspec.json.encode(UserChange(user_id, user, at).to_dict()))

    imported = users_table([User("a", {"age": "1"}), User("z", {"age": "9"})])
    write_parquet(users_path(tmp_path), imported)
    log = MemoryEventLog()
    deliver("b", {"age": "2"}, 5)
    deliver("a", {"gender": "F"}, 5)
    drain(Archiver(log.source(), tmp_path))
    assert read_users(tmp_path) == [
        User("a", {"gender": "F"}),
        User("b", {"age": "2"}),
        User("z", {"age": "9"}),
    ]
    deliver("b", {"age": "1"}, 4)
    deliver("a", None, 6)
    deliver("never", None, 6)
    drain(Archiver(log.source(), tmp_path))
    assert read_users(tmp_path) == [User("b", {"age": "2"}), User("z", {"age": "9"})]
    deleted = {user_digest(user_id): 6 for user_id in ("a", "never")}
    assert change_times(users_path(tmp_path)) == {"b": 5, **deleted}
    deliver("a", {"age": "1"}, 5)  # older than the deletion
    deliver("never", {"age": "1"}, 7)
    drain(Archiver(log.source(), tmp_path))
    assert [user.user_id for user in read_users(tmp_path)] == ["b", "never", "z"]
    assert change_times(users_path(tmp_path)) == {"b": 5, "never": 7, user_digest("a"): 6}


def test_merges_become_a_table_of_the_earliest(tmp_path: Path) -> None:
    log = MemoryEventLog()

    def deliver(*merges: UserMerge) -> None:
        for merge in merges:
            log.append(Topic.USERS, merge.key, msgspec.json.encode(merge.to_dict()))
        drain(Archiver(log.source(), tmp_path))

    first, second = UserMerge("a", "u", 5), UserMerge("gone-7", "u", 6)
    deliver(UserMerge("a", "u", 7), first)
    deliver(second, UserMerge("a", "u", 9), UserMerge("a", "v", 8))
    log.append(Topic.USERS, first.key, b"")  # the tombstone removes nothing here; the mark does
    deliver()
    assert read_merges(tmp_path) == [first, UserMerge("a", "v", 8), second]
    mark_forgotten(tmp_path, "gone-7", 6)
    assert read_merges(tmp_path) == [first, UserMerge("a", "v", 8)]
    mark_forgotten(tmp_path, "u", 5)
    assert compact(tmp_path).rows_removed == 2
    assert files_with(tmp_path / "merges", "gone-7") == []
    assert read_merges(tmp_path) == [UserMerge("a", "v", 8)]


def test_replayed_and_malformed_records_are_skipped_and_counted(tmp_path: Path) -> None:
    log, replayed = MemoryEventLog(), event(0)
    value = msgspec.json.encode(replayed.to_dict())
    log.append(Topic.EVENTS, replayed.user_id, value, [(REPLAY_HEADER, b"1")])
    for poison in (b"", b"{", b"\xff", b"{}", b"[1]", b"[" * 100_000):
        log.append(Topic.EVENTS, "u", poison)
        log.append(Topic.IMPRESSIONS, "u", poison)
        log.append(Topic.ITEMS, "i", poison)
        log.append(Topic.USERS, "u", poison)
    send(log, event(1))
    archiver = Archiver(log.source(), tmp_path)
    drain(archiver)
    assert list(read_events(tmp_path)) == [event(1)]
    # without a value, a record of an item or a user is a deletion
    assert (archiver.totals.replayed, archiver.totals.poison) == (1, 22)
    again = Archiver(log.source(), tmp_path)
    assert again.step(0.0) == 0, "what was passed over is not read again"


def test_late_records_are_skipped_by_a_new_archiver_too(tmp_path: Path) -> None:
    def click(n: int, time_ms: int) -> Event:
        return Event(str(n), EventType.CLICK, "u", "i", time_ms)

    log = MemoryEventLog()
    first, newest = click(0, START_MS), click(1, START_MS + 2 * MS_PER_DAY)
    send(log, first, newest, click(2, START_MS + MS_PER_DAY - 1))
    archiver = Archiver(log.source(), tmp_path)
    drain(archiver)
    allowed = click(3, START_MS + MS_PER_DAY)
    send(log, click(4, START_MS), allowed)
    again = Archiver(log.source(), tmp_path)  # learns the watermark from the lake
    drain(again)
    log.lose()
    send(log, click(5, START_MS))
    anew = Archiver(log.source(), tmp_path)
    drain(anew)
    assert list(read_events(tmp_path)) == [first, allowed, newest]
    assert (archiver.totals.late, again.totals.late, anew.totals.late) == (1, 1, 1)


def test_a_replay_moves_the_watermark_as_it_does_for_the_worker(tmp_path: Path) -> None:
    log, replayed = MemoryEventLog(), event(39)
    log.append(
        Topic.EVENTS, replayed.user_id, msgspec.json.encode(replayed.to_dict()), [(REPLAY_HEADER, b"1")]
    )
    send(log, replace(event(0), event_time_ms=replayed.event_time_ms - MS_PER_DAY - 1))
    archiver = Archiver(log.source(), tmp_path)
    drain(archiver)
    assert (archiver.totals.replayed, archiver.totals.late, count_rows(tmp_path)) == (1, 1, 0)


def test_future_event_times_become_the_append_time_in_the_lake(tmp_path: Path) -> None:
    class StampedSource(MemoryEventSource):
        def poll(self, timeout_s: float, max_records: int) -> list[Record]:
            return [replace(r, append_time_ms=START_MS) for r in super().poll(timeout_s, max_records)]

    log = MemoryEventLog()
    send(log, replace(event(0), event_time_ms=START_MS + MS_PER_DAY))
    drain(Archiver(StampedSource(log), tmp_path))
    (found,) = read_events(tmp_path)
    assert found.event_time_ms == START_MS


def test_files_are_written_by_size_or_by_age(tmp_path: Path) -> None:
    now = [0.0]
    log = MemoryEventLog()
    archiver = Archiver(log.source(), tmp_path, max_rows=10, max_seconds=5.0, monotonic=lambda: now[0])
    send(log, *(event(n) for n in range(9)))
    archiver.step(0.0)
    assert count_rows(tmp_path) == 0
    send(log, event(9))
    archiver.step(0.0)
    assert count_rows(tmp_path) == 10
    send(log, event(10))
    archiver.step(0.0)
    assert count_rows(tmp_path) == 10
    now[0] = 5.0
    archiver.step(0.0)
    assert count_rows(tmp_path) == 11


def test_a_replaced_log_is_archived_from_the_beginning(tmp_path: Path) -> None:
    log = MemoryEventLog()
    archiver = Archiver(log.source(), tmp_path)
    send(log, *(event(n) for n in range(10)))
    archiver.step(0.0)  # read, not written yet
    log.lose()
    send(log, *(event(n) for n in range(10, 30)))
    drain(archiver)  # notices, keeps what it had
    drain(archiver)
    assert list(read_events(tmp_path)) == [event(n) for n in range(30)]
    assert count_rows(tmp_path) == 30


def test_an_outage_while_attaching_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryEventLog()
    source = log.source()
    archiver = Archiver(source, tmp_path)
    send(log, *(event(n) for n in range(10)))
    archiver.step(0.0)
    log.lose()
    send(log, *(event(n) for n in range(10, 30)))
    log_id = source.log_id

    def away(topic: str) -> str:
        if topic == Topic.IMPRESSIONS:
            raise Unavailable("the log is away")
        return log_id(topic)

    with monkeypatch.context() as patch:
        patch.setattr(source, "log_id", away)
        for _ in range(2):
            with pytest.raises(Unavailable):
                archiver.step(0.0)
    drain(archiver)
    assert list(read_events(tmp_path)) == [event(n) for n in range(30)]


def test_the_heartbeat_continues_while_the_log_is_unavailable(tmp_path: Path) -> None:
    archiver, stop = Archiver(MemoryEventLog(1).source(), tmp_path), threading.Event()

    def away(timeout_s: float = 0.5) -> int:
        stop.set()
        raise Unavailable("away")

    archiver.step = away  # type: ignore[method-assign]
    heartbeat = tmp_path / FOLDER / HEARTBEAT
    assert not heartbeat.exists()
    archiver.run(stop)
    assert heartbeat.exists()


def test_a_partition_that_cannot_be_read_stops_alone_and_is_named(tmp_path: Path) -> None:
    log, stop = MemoryEventLog(), threading.Event()
    send(log, *(event(n) for n in range(40)))
    log.break_at(Topic.EVENTS, 2, 3)
    archiver = Archiver(log.source(), tmp_path)
    step = archiver.step

    def last(timeout_s: float = 0.5) -> int:
        stop.set()
        return step(timeout_s)

    archiver.step = last  # type: ignore[method-assign]
    archiver.run(stop)
    ends = {p: log.end_offset(Topic.EVENTS, p) for p in range(4)} | {2: 3}
    assert archiver.totals.archived == sum(ends.values())
    assert "recsys stream skip events 2 3" in stopped_partitions(tmp_path)[0]
    log.broken.clear()
    drain(archiver)
    assert count_rows(tmp_path) == 40


def test_a_grown_topic_stops_the_archiver_until_it_is_set_and_known(tmp_path: Path) -> None:
    log = MemoryEventLog()
    with pytest.raises(InvalidConfig, match="RECSYS_PARTITIONS=4"):
        Archiver(log.source(), tmp_path, partitions=3).step()
    archiver = Archiver(log.source(), tmp_path, partitions=4)
    send(log, event(0))
    drain(archiver)
    send(log, event(1))  # in its old partition, not read yet
    log.add_partitions(2)
    send(log, *(event(n) for n in range(2, 40)))
    with pytest.raises(InvalidConfig, match="recsys topics grow 6"):
        drain(archiver)
    with pytest.raises(InvalidConfig, match="recsys topics grow 6"):
        drain(Archiver(log.source(), tmp_path, partitions=6))
    begin = {f"{topic}/{p}": START_MS + MS_PER_DAY for topic in GROWING for p in (4, 5)}
    assert add_partitions(tmp_path, begin) == begin
    assert add_partitions(tmp_path, {"events/4": 7, "events/6": 8}) == begin | {"events/6": 8}
    archiver = Archiver(log.source(), tmp_path, partitions=6)
    drain(archiver)
    assert (archiver.totals.late, count_rows(tmp_path)) == (0, 40)
    for partition in (4, 5):  # they begin with the watermark that the store's partitions have
        user = next(f"u{n}" for n in range(99) if partition_of(f"u{n}", 6) == partition)
        send(log, Event("early", EventType.CLICK, user, "i", START_MS - 1))
    drain(archiver)
    assert archiver.totals.late == 2


def test_a_gap_is_passed_when_it_is_accepted(tmp_path: Path) -> None:
    log = MemoryEventLog(1)
    send(log, *(event(n) for n in range(5)))
    drain(Archiver(log.source(), tmp_path))
    send(log, *(event(n) for n in range(5, 30)))
    log.delete_before(Topic.EVENTS, 0, 20)
    with pytest.raises(InvalidData, match="--accept-gap"):
        drain(Archiver(log.source(), tmp_path))
    archiver = Archiver(log.source(accept_gap=True), tmp_path)
    drain(archiver)
    assert (archiver.totals.lost, count_rows(tmp_path)) == (15, 15)
    log.delete_before(Topic.EVENTS, 0, 30)  # up to the end, all of it read
    drain(Archiver(log.source(), tmp_path))


def test_one_archiver_per_lake(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(InvalidConfig, match="another archiver"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


class Died(BaseException):
    """The process is gone: nothing after this runs, and no `except Exception` sees it."""


@contextmanager
def dying_after(changes: int) -> Iterator[None]:
    """Let so many changes of the file system happen, die before the next one."""
    left = iter(range(changes))

    def deadly(original: Callable[..., object]) -> Callable[..., object]:
        def change(*args: object, **options: object) -> object:
            if next(left, None) is None:
                raise Died
            return original(*args, **options)

        return change

    changing = [
        (Path, "rename"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (pq, "write_table"),
        (shutil, "rmtree"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in changing:
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        yield


@pytest.mark.slow
def test_a_crash_before_each_change_of_the_file_system(tmp_path: Path) -> None:
    """Die before the first, the second, … change, twice in a row so that recovery dies too; then go on."""
    for changes in itertools.count():
        lake, log, died = tmp_path / str(changes), MemoryEventLog(partitions=2), 0
        send(log, *(event(n) for n in range(60)))
        for n in range(6):
            added = ItemChange(f"i{n}", Item(f"i{n}"), START_MS)
            log.append(Topic.ITEMS, added.item_id, msgspec.json.encode(added.to_dict()))
        for _ in range(2):
            try:
                with dying_after(changes):
                    drain(Archiver(log.source(), lake))
            except Died:
                died += 1
        send(log, *(event(n) for n in range(60, 80)))
        drain(Archiver(log.source(), lake))
        assert Counter(event_ids(lake)) == {event(n).event_id: 1 for n in range(80)}, f"died after {changes}"
        assert [item.item_id for item in read_items(items_path(lake))] == [f"i{n}" for n in range(6)]
        if not died:
            break
    assert changes > 15, "the flush has more steps than that"


def event_ids(lake: Path) -> Iterator[str]:
    """Of every row of every file: nothing here hides a repeated id."""
    for path in lake.glob(f"{EVENTS}/*/*.parquet"):
        yield from pq.read_table(path, partitioning=None)["event_id"].to_pylist()


def test_markers_of_transactions_are_passed_and_no_rows(tmp_path: Path) -> None:
    log = MemoryEventLog(partitions=1)
    send(log, event(0))
    log.mark(Topic.EVENTS, 0)
    log.mark(Topic.USERS, 0)
    drain(Archiver(log.source(), tmp_path))
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint["events/0"].offset, checkpoint["users/0"].offset) == (2, 1)
    send(log, event(1))
    drain(Archiver(log.source(), tmp_path))
    assert list(read_events(tmp_path)) == [event(0), event(1)]
