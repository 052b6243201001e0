"""The lake: its schema is the event's, its files are whole, its readers see every event once and in order."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.events import Event, derived_id
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.lake.lake import (
    EVENT_SCHEMA,
    EVENTS,
    count_rows,
    day_of,
    day_writer,
    days,
    events_table,
    read_day,
    read_events,
    split_by_day,
    table_events,
    write_parquet,
)

NOON_MS = 893_246_400_000  # 1998-04-22 12:00 UTC

ids = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8)
events = st.builds(
    Event,
    event_id=ids,
    type=st.sampled_from(EventType),
    user_id=ids,
    item_id=ids,
    event_time_ms=st.integers(1, 4_102_444_799_999),
    request_id=st.none() | ids,
    position=st.none() | st.integers(0, 999_999),
    value=st.none() | st.floats(-1e12, 1e12),
    context=st.dictionaries(ids, ids, max_size=3),
)


def event(n: int, time_ms: int | None = None) -> Event:
    time_ms = NOON_MS + n * 1_000 if time_ms is None else time_ms
    return Event(derived_id(time_ms, n), EventType.CLICK, f"u{n}", f"i{n}", time_ms)


def test_the_schema_has_the_events_fields_with_their_types_and_then_the_origin() -> None:
    arrow = {str: "string", EventType: "string", int: "int64", float: "double", Mapping[str, str]: "map"}
    hints = get_type_hints(Event)
    assert EVENT_SCHEMA.names == [*(f.name for f in fields(Event)), "partition", "offset"]
    for name, hint in hints.items():
        optional = isinstance(hint, UnionType)
        plain = next(t for t in get_args(hint) if t is not type(None)) if optional else hint
        assert str(EVENT_SCHEMA.field(name).type).startswith(arrow[plain]), name
        assert EVENT_SCHEMA.field(name).nullable is optional, name


@given(st.lists(events, max_size=20))
def test_events_survive_the_way_into_arrow_and_back(rows: list[Event]) -> None:
    assert list(table_events(events_table(rows))) == rows


@given(st.lists(events, max_size=20))
def test_splitting_by_day_keeps_every_row_and_its_order(rows: list[Event]) -> None:
    parts = dict(split_by_day(events_table(rows)))
    assert list(parts) == sorted({day_of(e.event_time_ms) for e in rows})
    for day, part in parts.items():
        assert list(table_events(part)) == [e for e in rows if day_of(e.event_time_ms) == day]


def test_a_day_begins_at_midnight_utc() -> None:
    midnight = NOON_MS - NOON_MS % MS_PER_DAY
    assert (day_of(midnight - 1), day_of(midnight)) == ("1998-04-21", "1998-04-22")


def test_the_writer_takes_any_order_and_the_reader_gives_time_order(tmp_path: Path) -> None:
    rows = [event(n, NOON_MS + n * MS_PER_DAY // 7) for n in range(50)]
    with day_writer(tmp_path, EVENTS, "x", max_rows=9) as writer:
        for n in range(0, 50, 5):
            writer.write(events_table(rows[::-1][n : n + 5]))
    assert writer.rows == count_rows(tmp_path) == 50
    assert list(read_events(tmp_path)) == rows
    first, last = days(tmp_path)[1], days(tmp_path)[3]
    expected = [e for e in rows if first <= day_of(e.event_time_ms) <= last]
    assert list(read_events(tmp_path, first, last)) == expected


def test_equal_times_are_ordered_by_id_and_a_repeated_id_is_given_once(tmp_path: Path) -> None:
    rows = sorted((event(n, NOON_MS) for n in range(10)), key=lambda e: e.event_id)
    for name, part in (("a", rows[:7]), ("b", rows[3:])):
        with day_writer(tmp_path, EVENTS, name) as writer:
            writer.write(events_table(part[::-1]))
    assert count_rows(tmp_path) == 14
    assert list(read_events(tmp_path)) == rows


def test_a_repeated_id_with_another_time_is_given_once_with_the_first(tmp_path: Path) -> None:
    first, other = event(1, NOON_MS), event(2, NOON_MS + 1)
    again = replace(first, event_time_ms=NOON_MS + 2)
    with day_writer(tmp_path, EVENTS, "a") as writer:
        writer.write(events_table([again, other, first]))
    assert list(read_events(tmp_path)) == [first, other]


def test_importing_again_replaces_what_the_name_wrote_before_and_nothing_else(tmp_path: Path) -> None:
    for name, numbers in (("a", range(5)), ("a-2", range(5, 9)), ("a", range(20, 22))):
        with day_writer(tmp_path, EVENTS, name, max_rows=2) as writer:
            for n in numbers:
                writer.write(events_table([event(n)]))
    assert list(read_events(tmp_path)) == [event(n) for n in (5, 6, 7, 8, 20, 21)]


def test_an_error_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    with day_writer(tmp_path, EVENTS, "a") as writer:
        writer.write(events_table([event(1)]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError), day_writer(tmp_path, EVENTS, "a", max_rows=1) as writer:
        writer.write(events_table([event(2)]))
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == before
    assert list(read_events(tmp_path)) == [event(1)]


def test_what_a_killed_import_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "_a~0123" / EVENTS / "dt=1998-04-22" / "a-0000.parquet", events_table([event(1)])
    )
    with day_writer(tmp_path, EVENTS, "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["rewriting.lock"]


def test_two_writers_of_one_name_take_turns(tmp_path: Path) -> None:
    with day_writer(tmp_path, EVENTS, "a") as first:
        with (
            pytest.raises(InvalidConfig, match="another process is writing a"),
            day_writer(tmp_path, EVENTS, "a"),
        ):
            pass
        with day_writer(tmp_path, EVENTS, "b") as second:
            second.write(events_table([event(2)]))
        first.write(events_table([event(1)]))
    assert list(read_events(tmp_path)) == sorted([event(1), event(2)], key=lambda e: e.event_time_ms)


def test_files_that_are_being_written_are_not_read(tmp_path: Path) -> None:
    with day_writer(tmp_path, EVENTS, "a", max_rows=1) as writer:
        writer.write(events_table([event(1)]))
        assert days(tmp_path) == []
        assert list(read_events(tmp_path)) == []


def test_chosen_columns_come_with_those_of_the_order(tmp_path: Path) -> None:
    with day_writer(tmp_path, EVENTS, "a") as writer:
        writer.write(events_table([event(1)]))
    assert read_day(tmp_path, days(tmp_path)[0], columns=["user_id"]).column_names == [
        "user_id",
        "event_time_ms",
        "event_id",
    ]


@pytest.mark.parametrize("content", [b"", b"PAR1 not really"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / EVENTS / "dt=1998-04-22" / "broken.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InvalidData, match="broken"):
        list(read_events(tmp_path))


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / EVENTS / "dt=1998-04-22" / "foreign.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InvalidData, match="foreign"):
        list(read_events(tmp_path))
