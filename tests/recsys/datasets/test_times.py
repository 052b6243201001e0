"""Times of imports: units, strays, no times at all; whatever one row says, the others keep their times."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_DAY, MS_PER_SECOND
from recsys.datasets.importer import validate_dataset
from recsys.datasets.mapper import SYNTHETIC_TIME
from recsys.datasets.opening import open_dataset
from recsys.datasets.report import ImportReport
from recsys.items.item_table import ITEM_SCHEMA
from recsys.lake.lake import TIME
from tests.recsys.datasets.streams import read_events

START_MS = 1_700_000_000_000
YEAR_MS = 365 * MS_PER_DAY
MAPPING = "events: {{files: ['*.csv'], user: u, item: i, time: {{{time}}}, events: [{{type: click}}]}}"


def log(folder: Path, *times: object, time: str = "column: t") -> Path:
    (folder / "mapping.yaml").write_text(MAPPING.format(time=time))
    rows = (f"u,i{n},{time}\n" for n, time in enumerate(times))
    (folder / "e.csv").write_text("u,i,t\n" + "".join(rows))
    return folder


def found(folder: Path) -> list[int]:
    batches = open_dataset(folder).events(ITEM_SCHEMA.empty_table())
    return [ms for batch in batches for ms in batch.rows.column(TIME).to_pylist()]


def report(folder: Path, end_ms: int | None = None) -> ImportReport:
    return validate_dataset(open_dataset(folder), end_ms=end_ms)


@pytest.mark.parametrize("kind", [pa.time64("us"), pa.duration("ms"), pa.list_(pa.int64())])
def test_columns_of_other_types_are_refused_by_name(kind: pa.DataType, tmp_path: Path) -> None:
    folder = log(tmp_path)
    (folder / "mapping.yaml").write_text(MAPPING.format(time="column: t").replace("*.csv", "e.parquet"))
    pq.write_table(pa.table({"u": ["u"], "i": ["i"], "t": pa.nulls(1, kind)}), folder / "e.parquet")
    with pytest.raises(InvalidData, match="column t is .*; only columns of"):
        report(folder)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4 * YEAR_MS // 1_000), st.sampled_from([1, 1e3, 1e6, 1e9])),
        max_size=20,
        unique_by=lambda row: row[
            0
        ],  # many rows of one instant are refused, and strays of years are rejected
    ),
    st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_every_row_is_read_in_the_unit_that_makes_sense(rows: list[tuple[int, float]], unit: str) -> None:
    seconds = [1_000_000_000 + after for after, _ in rows]
    written = [s * int(per_second) for s, (_, per_second) in zip(seconds, rows, strict=True)]
    with TemporaryDirectory() as folder:
        path = log(Path(folder), *written, time=f"column: t, unit: {unit}")
        assert found(path) == [s * MS_PER_SECOND for s in seconds]


def test_a_wrong_unit_is_said(tmp_path: Path) -> None:
    (note,) = report(log(tmp_path, *range(1_700_000_000, 1_700_000_020))).notes
    assert note.startswith("e.csv: column t: seconds, not milliseconds, in 20 rows")
    assert "`unit`" in note
    assert not report(log(tmp_path, START_MS)).notes


@pytest.mark.parametrize(
    "stray", [0, 1, -5, 20_240_101, 9_999_999_999_999, START_MS + 20 * YEAR_MS, START_MS - 15 * YEAR_MS]
)
def test_a_stray_is_rejected_and_moves_no_other_row(stray: int, tmp_path: Path) -> None:
    times = [START_MS + n * MS_PER_DAY for n in range(30)]
    path = log(tmp_path, *times[:7], stray, *times[7:])
    assert found(path) == times
    end_ms = START_MS + 500 * MS_PER_DAY
    damaged, whole = report(path, end_ms), report(log(tmp_path, *times), end_ms)
    assert (damaged.broken, whole.broken) == (1, 0)
    assert damaged.shift_weeks == whole.shift_weeks > 0
    assert damaged.first_broken[0].row == 9
    assert damaged.first_broken[0].reason in (
        "is before 1990 or in the future, in any unit",
        "is years away from the other rows",
    )


def test_a_long_log_has_no_strays(tmp_path: Path) -> None:
    times = [START_MS - n * YEAR_MS for n in range(25)]
    assert found(log(tmp_path, *times)) == times


@pytest.mark.parametrize(
    ("cell", "says"), [(START_MS, "is the same in every row"), ("", "is empty in every row")]
)
def test_a_log_without_an_order_is_refused_with_the_way_out(cell: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=f"column t {says}.*unit: rows"):
        report(log(tmp_path, *[cell] * 10))


def test_the_order_of_rows_may_stand_for_times(tmp_path: Path) -> None:
    path = log(tmp_path, *[""] * 3, time="unit: rows, first: 2026-01-01")
    (path / "f.csv").write_text("u,i,t\nu,i9,\n")
    events = list(read_events(open_dataset(path)))
    assert [e.event_time_ms for e in events] == [1_767_225_600_000 + n * 1_000 for n in range(4)]
    assert {e.context[SYNTHETIC_TIME] for e in events} == {"1"}


@pytest.mark.parametrize(
    "time",
    ["unit: rows", "unit: s", "column: t, first: 2026-01-01", "column: t, unit: rows, first: 2026-01-01"],
)
def test_half_a_description_of_the_times_is_refused(time: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"events\.time"):
        open_dataset(log(tmp_path, 1, time=time))
