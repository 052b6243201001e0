"""Splits by time: by shares or by days, and never a training row after a test row."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import MS_PER_DAY
from training.evaluation.ranking.split import TimeSplit

SHARES = st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).filter(lambda shares: sum(shares) < 0.98)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), SHARES)
def test_no_row_is_older_than_one_of_an_earlier_period(times: list[int], shares: tuple[float, float]) -> None:
    rows = np.sort(np.array(times, np.int64))
    try:
        first, second = TimeSplit(train=shares[0], validation=shares[1]).bounds(rows)
    except InvalidData:
        return
    assert 0 < first < second < len(rows)
    assert rows[first - 1] < rows[first]  # not even as old: a list stays together
    assert rows[second - 1] < rows[second]


def test_shares_are_of_the_examples() -> None:
    assert TimeSplit().bounds(np.arange(1_000)) == (800, 900)
    assert TimeSplit(train=0.5, validation=0.25).bounds(np.arange(1_000)) == (500, 750)


def test_days_are_whole_and_included() -> None:
    times = np.arange(0, 10 * MS_PER_DAY, MS_PER_DAY // 4)  # from 1970-01-01, four a day
    split = TimeSplit(train_until=date(1970, 1, 5), validate_until=date(1970, 1, 7))
    assert split.bounds(times) == (20, 28)


@pytest.mark.parametrize(
    ("split", "times", "periods"),
    [
        (TimeSplit(), np.zeros(100, np.int64), "validation"),
        (TimeSplit(), np.zeros(0, np.int64), "train and validation and test"),
        (TimeSplit(train_until=date(1971, 1, 1), validate_until=date(1971, 1, 2)), np.arange(9), "test"),
        (
            TimeSplit(train_until=date(1969, 1, 1), validate_until=date(1971, 1, 2)),
            np.arange(9),
            "train and test",
        ),
    ],
)
def test_a_period_without_rows_is_refused(split: TimeSplit, times: np.ndarray, periods: str) -> None:
    with pytest.raises(InvalidData, match=f"no rows for .*{periods}.*give other"):
        split.bounds(times)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"train": 0.9, "validation": 0.1}, "less than 1"),
        ({"train_until": "2026-01-01"}, "or neither"),
        ({"train_until": "2026-01-02", "validate_until": "2026-01-02"}, "must end after"),
        ({"train_until": "yesterday", "validate_until": "2026-01-02"}, "date"),
    ],
)
def test_impossible_splits_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TimeSplit.model_validate(fields)
