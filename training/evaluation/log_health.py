"""Whether the newest day of the log is like those before it: what was learnt from a poisoned log is not released."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY
from recsys.experiments.release import Check
from training.ranker.dataset import fragments, rows_of_days

LABELS = ("click", "conversion", "like")
_DAYS = 8  # the newest, and those that it is compared with
_LEAST_DAYS = 3  # before it; with fewer nothing can be said
_LEAST = 50  # positives per day; of fewer a rate says little
ROWS, RATES = 3.0, 2.0  # factors by which the newest day may differ from the median of those before it


@dataclass(frozen=True)
class DayCounts:
    """Impressions of 24 hours, and how many had each label."""

    rows: int
    positives: dict[str, int]


def day_counts(examples: Path) -> list[DayCounts]:
    """The 24 hours up to the newest example, and those before them, oldest first: days that start when the newest one
    does, as it may be cut by midnight.

    Raises:
        InvalidData: there are no examples.
    """
    newest = sorted(rows_of_days(examples))[-_DAYS - 1 :]
    table = pa.concat_tables(fragments(examples, ("event_time_ms", *LABELS), newest))
    at = np.asarray(table["event_time_ms"], np.int64)
    age = (at.max() - at) // MS_PER_DAY
    labels = {name: np.nan_to_num(np.asarray(table[name], np.float64)) > 0 for name in LABELS}
    # the oldest 24 hours may be cut by the first day that was read
    return [_counted(age == day, labels) for day in range(min(int(age.max()), _DAYS) - 1, -1, -1)]


def _counted(rows: NDArray[np.bool_], labels: dict[str, NDArray[np.bool_]]) -> DayCounts:
    return DayCounts(int(rows.sum()), {name: int((rows & label).sum()) for name, label in labels.items()})


def log_checks(counts: Sequence[DayCounts]) -> Iterator[Check]:
    """Row counts and label rates of the newest day against the median of the days before it."""
    *before, newest = counts or [DayCounts(0, {})]
    before = [day for day in before if day.rows]
    if len(before) < _LEAST_DAYS:
        return
    yield _like("rows", newest.rows, float(np.median([day.rows for day in before])), ROWS)
    for label in LABELS:
        usual = float(np.median([day.positives[label] for day in before]))
        if usual >= _LEAST and newest.rows:
            rates = [day.positives[label] / day.rows for day in before]
            yield _like(
                f"{label}_rate", newest.positives[label] / newest.rows, float(np.median(rates)), RATES
            )


def _like(name: str, value: float, usual: float, factor: float) -> Check:
    like = usual / factor <= value <= usual * factor
    return Check(name, value, usual, "" if like else f"{value:.4g} on the newest day, usually {usual:.4g}")
