"""Columns are accepted exactly where `parse_event` accepts their cells, and each refusal has its reason."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import MAX_TIME_MS, parse_event
from recsys.contracts.text import id_text
from recsys.datasets.base import sealed
from recsys.datasets.checks import Checker
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import Mapping, TimeColumn, TimeUnit
from recsys.datasets.reading import Chunk
from recsys.datasets.times import EARLIEST_MS, Span
from recsys.items.item_table import ITEM_SCHEMA
from recsys.lake.lake import table_events


def check(*cells: object, kind: pa.DataType | None = None) -> Checker:
    return Checker(Chunk("f", pa.table({"c": pa.array(cells, kind)}), np.arange(1, len(cells) + 1)))


def verdicts(checker: Checker) -> list[tuple[int, str]]:
    return [(broken.row, broken.reason) for broken in checker.broken()]


# --- one rule for the importer and the API ------------------------------------------------------------------------

ids = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"), max_size=4),
    st.sampled_from(["u", "x" * 128, "x" * 129, "a b", "\u00a0", "é", "\x07", "user\u200b", "日本"]),
    st.sampled_from(["e\u0301", "..", "\u202e", " x"]),
)
# an import takes no other times, and reads units; test_times has those
times = st.one_of(
    st.integers(EARLIEST_MS, 1_700_000_000_000).map(str), st.sampled_from(["", "0", "x", "1e99", "nan", "-5"])
)
values = st.one_of(
    st.floats().map(repr),
    st.sampled_from(["", "3", "x", "0", "100", "100.1", "-0.5", "1.1e12", "-inf", "nan"]),
)
positions = st.one_of(st.integers(-2, 1_000_001).map(str), st.sampled_from(["", "x", "1.5", "nan", "999999"]))
notes = st.one_of(st.just(""), st.text("ab", max_size=3), st.sampled_from(["n" * 507, "n" * 508, "n" * 509]))


def expected(user: str, item: str, time: str, value: str, position: str, note: str) -> bool:
    """The verdict of the API on the same cells, read as JSON would give them."""
    raw: dict[str, Any] = {"event_id": "e", "type": "rating", "user_id": user, "item_id": item}
    raw["event_time_ms"] = number(time, int)
    raw["value"] = number(value, float)
    raw["position"] = number(position, int)
    raw["context"] = {"note": note} if note else {}
    try:
        parse_event(raw)
    except InvalidEvent:
        return False
    return True


def number(cell: str, kind: type) -> object:
    try:
        return kind(cell) if cell else None
    except ValueError:
        return cell


EDGES = [
    ("u", "i", str(time), value, position, "")
    for time, value, position in (
        (MAX_TIME_MS, "1", "0"),
        (EARLIEST_MS, "100", "999999"),
        (EARLIEST_MS, "-1e-9", "1000000"),
        (0, "1", "0"),
    )
]


@settings(deadline=None)
@example(EDGES)
@given(st.lists(st.tuples(ids, ids, times, values, positions, notes), min_size=1, max_size=20))
def test_rows_are_judged_as_the_api_judges_events(rows: list[tuple[str, ...]]) -> None:
    mapping = Mapping.model_validate(
        {
            "events": {
                "files": ["e.parquet"],
                "user": "0",
                "item": "1",
                "time": {"column": "2"},
                "position": "4",
                "context": {"note": "5"},
                "events": [{"type": "rating", "value": "3"}],
            }
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({str(n): pa.array(cells) for n, cells in enumerate(zip(*rows, strict=True))})
        pq.write_table(table, Path(folder) / "e.parquet")
        _, batch = MappedDataset("d", Path(folder), mapping).events(ITEM_SCHEMA.empty_table())
    refused = {broken.row for broken in batch.broken}
    assert refused == {n for n, row in enumerate(rows, start=1) if not expected(*row)}
    taken = [row for n, row in enumerate(rows, start=1) if n not in refused]
    events = list(table_events(sealed(batch.rows, "d")))
    assert [(e.user_id, e.item_id, str(e.event_time_ms)) for e in events] == [
        (id_text(u), id_text(i), str(int(t))) for u, i, t, *_ in taken
    ]
    assert [e.value for e in events] == [float(row[3]) if row[3] else None for row in taken]
    for event in events:
        assert parse_event(event.to_dict()) == event


# --- reasons ------------------------------------------------------------------------------------------------------


def test_each_refusal_has_its_cell_and_reason() -> None:
    checker = check("1.5", "abc", None, "inf", "1e13")
    assert checker.number("c").to_pylist()[0] == 1.5
    (abc, inf, huge) = checker.broken()
    assert (abc.row, abc.column, abc.reason, abc.cell) == (2, "c", "is not a number", "'abc'")
    assert (inf.row, inf.reason) == (4, "is not a number")
    assert (huge.row, huge.reason) == (5, "is out of range")
    assert str(abc) == "f: row 2, column c: is not a number: 'abc'"


def test_the_first_reason_of_a_row_stays() -> None:
    checker = check("x")
    checker.number("c")
    checker.position("c")
    assert verdicts(checker) == [(1, "is not a number")]


@pytest.mark.parametrize(
    ("unit", "cell", "ms"),
    [
        ("s", "875000000", 875_000_000_000),
        ("s", "875000000.5", 875_000_000_500),
        ("ms", "1650900000123", 1_650_900_000_123),
        ("us", "1650900000123456", 1_650_900_000_123),
        ("ns", "1650900000123456789", 1_650_900_000_123),
        ("iso", "2022-04-10", 1_649_548_800_000),
        ("iso", "2022-04-10T02:00:00+02:00", 1_649_548_800_000),
        ("iso", "2022-04-10 00:00:00.250", 1_649_548_800_250),
    ],
)
def test_times_of_every_unit(unit: TimeUnit, cell: str, ms: int) -> None:
    checker = check(cell)
    assert checker.time(TimeColumn(column="c", unit=unit)).tolist() == [ms]
    assert not checker.broken()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "iso"])
def test_wrong_times_are_refused(unit: TimeUnit) -> None:
    checker = check("soon", None, "1e300")
    checker.time(TimeColumn(column="c", unit=unit), Span(EARLIEST_MS, MAX_TIME_MS, MAX_TIME_MS))
    assert [row for row, _ in verdicts(checker)] == [1, 2, 3]


def test_typed_columns_of_parquet() -> None:
    stamps = check(1_649_548_800, kind=pa.timestamp("s"))
    assert stamps.time(TimeColumn(column="c", unit="iso")).tolist() == [1_649_548_800_000]
    assert check(17.0, 2.5, None).identifier("c").to_pylist() == ["17", "2.5", ""]
    assert check(17, kind=pa.int64()).identifier("c").to_pylist() == ["17"]
    assert check(True, False, None).truth("c").tolist() == [True, False, False]
    assert check(2, 0, None).truth("c").tolist() == [True, False, False]


def test_truth_of_text() -> None:
    true, false = (
        ["1", "t", "True", "1.00", "y", " on "],
        ["0", "f", "No", "0.00", "-0", "0e0", "NULL", "off", "-1"],
    )
    checker = check(*true, *false, None, "view", "inf")
    assert checker.truth("c").tolist() == [True] * len(true) + [False] * (len(false) + 3)
    assert [(b.cell, b.reason) for b in checker.broken()] == [
        ("'view'", "is neither true nor false"),
        ("'inf'", "is neither true nor false"),
    ]
