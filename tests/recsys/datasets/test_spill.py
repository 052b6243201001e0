"""The spill gives back what it got, in spans of time, whatever fits into memory."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.types import MS_PER_DAY
from recsys.datasets.spill import Spill
from recsys.lake.lake import TIME

SCHEMA = pa.schema([(TIME, pa.int64()), ("n", pa.int64())])
TIMES = st.integers(0, 3 * MS_PER_DAY) | st.integers(0, 20) | st.integers(MS_PER_DAY, MS_PER_DAY + 5_000)


def spilled(times: list[int], batch: int, max_rows: int) -> list[pa.Table]:
    with tempfile.TemporaryDirectory() as folder:
        spill = Spill(Path(folder), max_rows)
        for start in range(0, len(times), batch):
            part = times[start : start + batch]
            spill.add(pa.table([part, list(range(start, start + len(part)))], schema=SCHEMA))
        spans = list(spill.spans())
        assert not list(Path(folder).iterdir()), "a file was left behind"
    return spans


@settings(deadline=None)
@given(st.lists(TIMES, max_size=80), st.integers(1, 30), st.integers(1, 40))
def test_every_row_comes_back_in_its_span(times: list[int], batch: int, max_rows: int) -> None:
    spans = spilled(times, batch, max_rows)
    rows = [(row[TIME], row["n"]) for span in spans for row in span.to_pylist()]
    assert sorted(rows) == sorted(zip(times, range(len(times)), strict=True))
    for before, after in itertools.pairwise(spans):
        assert max(before[TIME].to_pylist()) < min(after[TIME].to_pylist())
    for span in spans:
        # too many rows only where they share one millisecond, and the order of arrival within a span
        assert span.num_rows <= max_rows or len(set(span[TIME].to_pylist())) == 1
        assert span["n"].to_pylist() == sorted(span["n"].to_pylist())
        assert len({time // MS_PER_DAY for time in span[TIME].to_pylist()}) == 1


def test_a_day_that_does_not_fit_is_split() -> None:
    times = np.random.default_rng(0).integers(0, MS_PER_DAY, 10_000).tolist()
    spans = spilled(times, batch=1_000, max_rows=700)
    assert len(spans) == 24  # by the hour
    assert max(span.num_rows for span in spans) <= 700
