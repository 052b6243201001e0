"""Compaction preserves every event except those of forgotten users, also across crashes."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.contracts.changes import UserChange
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.merges import UserMerge
from recsys.contracts.types import MS_PER_DAY, EventType, User
from recsys.datasets.catalogue import read_users, users_table
from recsys.datasets.changed import users_after
from recsys.files import locked
from recsys.lake.forget import forgotten_users, mark_forgotten
from recsys.lake.lake import (
    EVENTS,
    day_writer,
    days,
    events_table,
    read_events,
    read_files,
    split_by_day,
    write_parquet,
)
from recsys.lake.merges import merges_after, read_merges
from streaming.lake_writer.compact import Compacted, compact

T0 = 1_700_000_000_000


@pytest.fixture
def events() -> list[Event]:
    return [Event(f"{n:03}", EventType.CLICK, f"u{n % 4}", "i", T0 + n * MS_PER_DAY // 20) for n in range(60)]


@pytest.fixture
def lake(tmp_path: Path, events: list[Event]) -> Path:
    """Three days in many files, with one event in two of them."""
    for n, event in enumerate(events):
        write(tmp_path, f"part-{n}", [event])
    write(tmp_path, "again", [events[5]])
    return tmp_path


def write(lake: Path, name: str, events: list[Event]) -> None:
    for day, rows in split_by_day(events_table(events)):
        write_parquet(lake / EVENTS / f"dt={day}" / f"{name}.parquet", rows)


def files(lake: Path) -> list[Path]:
    return sorted((lake / EVENTS).glob("*/*.parquet"))


def test_a_day_becomes_one_file_with_the_same_events(lake: Path, events: list[Event]) -> None:
    done = compact(lake)
    assert list(read_events(lake)) == events
    assert len(files(lake)) == len(days(lake)) == done.days == done.files_after
    assert done.files_before == 61
    assert done.rows_removed == 1  # the repeated one
    before = files(lake)
    assert compact(lake).days == 0
    assert files(lake) == before


def test_rows_of_a_forgotten_user_are_deleted_and_later_ones_stay(lake: Path, events: list[Event]) -> None:
    users = users_table([User(f"u{n}", {"age": str(n)}) for n in range(4)])
    write_parquet(lake / "users" / "users.parquet", users)
    compact(lake)
    until = events[29].event_time_ms
    path = mark_forgotten(lake, "u1", until)
    assert "u1" not in path.name + path.read_text(encoding="utf-8")
    compact(lake)
    assert list(read_events(lake)) == [e for e in events if e.user_id != "u1" or e.event_time_ms > until]
    assert pq.read_table(lake / "users" / "users.parquet").column("user_id").to_pylist() == ["u0", "u2", "u3"]
    write(lake, "imported-again", events)
    compact(lake)
    assert list(read_events(lake)) == [e for e in events if e.user_id != "u1" or e.event_time_ms > until]


def test_features_that_have_a_forgotten_ids_history_are_deleted_with_it(tmp_path: Path) -> None:
    lake, features = tmp_path / "lake", tmp_path / "features"
    merges = [UserMerge("anon", "u", 5), UserMerge("u", "u2", 6), UserMerge("other", "v", 7)]
    for changed, table in merges_after(lake, merges):
        write_parquet(lake / changed, table)
    users = pa.table({"user_id": ["anon", "u", "u2", "v", "other"]})
    for path in ("examples/dt=2023-11-14/part.parquet", "sequences/part.parquet"):
        write_parquet(features / path, users)
    mark_forgotten(lake, "anon", 10)
    assert compact(lake, features).rows_removed == 2 * 3 + 1
    for file in features.glob("**/*.parquet"):
        assert pq.read_table(file, partitioning=None)["user_id"].to_pylist() == ["v", "other"]
    assert {merge.user_id for merge in read_merges(lake)} == {"u", "other"}


def test_a_forgotten_user_who_was_written_later_stays(tmp_path: Path) -> None:
    put = [UserChange(user_id, User(user_id), 10) for user_id in ("back", "gone", "other")]
    for path, table in users_after(tmp_path, put):
        write_parquet(tmp_path / path, table)
    mark_forgotten(tmp_path, "gone", 10)
    mark_forgotten(tmp_path, "back", 9)
    assert compact(tmp_path).rows_removed == 1
    assert read_users(tmp_path) == [User("back"), User("other")]


def test_imported_files_lose_forgotten_users_and_keep_their_names(
    tmp_path: Path, events: list[Event]
) -> None:
    for name in ("import-a", "import-b"):
        with day_writer(tmp_path, EVENTS, name) as writer:
            writer.write(events_table([replace(e, event_id=f"{name}-{e.event_id}") for e in events]))
    before = files(tmp_path)
    assert compact(tmp_path) == Compacted()
    mark_forgotten(tmp_path, "u1", events[-1].event_time_ms)
    done = compact(tmp_path)
    assert (done.days, done.rows_removed) == (len(days(tmp_path)), 2 * sum(e.user_id == "u1" for e in events))
    assert files(tmp_path) == before
    assert {e.user_id for e in read_events(tmp_path)} == {"u0", "u2", "u3"}
    assert compact(tmp_path) == Compacted()


def test_a_day_with_forgotten_users_only_is_deleted(tmp_path: Path) -> None:
    write(tmp_path, "only", [Event("1", EventType.CLICK, "u", "i", T0)])
    mark_forgotten(tmp_path, "u", T0)
    assert compact(tmp_path).rows_removed == 1
    assert days(tmp_path) == []


def test_a_crash_between_writing_and_deleting_neither_loses_nor_duplicates_events(
    lake: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def crash(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("part-"):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            compact(lake)
    assert list(read_events(lake)) == events
    compact(lake)
    assert list(read_events(lake)) == events
    assert len(files(lake)) == len(days(lake))


def test_files_written_during_a_compaction_stay(
    lake: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Event("999", EventType.CLICK, "u9", "i", T0 + 1)

    def read_then_archive(*arguments: object) -> pa.Table:
        rows = read_files(*arguments)  # type: ignore[arg-type]
        write(lake, "archived", [late])
        return rows

    monkeypatch.setattr("streaming.lake_writer.compact.read_files", read_then_archive)
    compact(lake)
    assert sorted(e.event_id for e in read_events(lake)) == sorted([*(e.event_id for e in events), "999"])


def test_a_broken_mark_stops_the_compaction(lake: Path) -> None:
    mark = mark_forgotten(lake, "u1", T0)
    mark.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidData, match="mark"):
        compact(lake)
    assert forgotten_users(lake / "elsewhere") == {}


def test_a_pull_during_a_compaction_is_not_undone(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull has replaced the files of a day by those of another machine, which has forgotten a user."""
    before = {path: path.read_bytes() for path in files(lake)}

    def read_then_pull(paths: list[Path], table: str) -> pa.Table:
        rows = read_files(paths, table)
        for path in before:
            path.unlink(missing_ok=True)
        (lake / EVENTS / "dt=2023-11-14" / "other.parquet").write_bytes(next(iter(before.values())))
        return rows

    monkeypatch.setattr("streaming.lake_writer.compact.read_files", read_then_pull)
    assert compact(lake).files_after == 0
    assert [path.name for path in files(lake)] == ["other.parquet"]


def test_files_that_go_during_a_compaction_are_left_to_the_next_one(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull_then_read(paths: list[Path], table: str) -> pa.Table:
        paths[0].unlink()
        return read_files(paths, table)

    monkeypatch.setattr("streaming.lake_writer.compact.read_files", pull_then_read)
    assert compact(lake).files_after == 0


def test_what_a_killed_pull_has_left_goes_with_the_forgotten_users(lake: Path) -> None:
    state = lake / "_mirror"
    for name in ("incoming", "staged", "outgoing"):
        (state / name).mkdir(parents=True)
        (state / name / "rows").write_text("u1")
    (state / "base.json").write_text("{}")
    compact(lake)
    assert len([*state.glob("*/rows")]) == 3  # nobody was forgotten: the next pull takes them
    mark_forgotten(lake, "u1", T0)
    with locked(state / "lock"):
        compact(lake)
        assert len([*state.glob("*/rows")]) == 3  # a pull is under way
    compact(lake)
    assert sorted(path.name for path in state.iterdir()) == ["base.json", "lock"]
