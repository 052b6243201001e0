"""Which times of a log are plausible: neither in another unit than the mapping says, nor decades from the rest."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY

EARLIEST_MS = 631_152_000_000  # 1990-01-01: before that, the time is in another unit or unset
PER_UNIT = {"s": 1_000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
NAMES = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "iso": "ISO 8601",
}
_GAP_DAYS = 5 * 365
_MOST_STRAY = 0.05  # of all rows


class Span(NamedTuple):
    """Where a log's times are, in Unix milliseconds, both ends included; and the latest one that is plausible."""

    first_ms: int
    last_ms: int
    latest_ms: int


def in_plausible_unit(
    values: NDArray[np.float64], unit: str, last_ms: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Unix milliseconds of numbers, each read in `unit`, or in the one other unit that makes it a time between 1990 and
    `last_ms`; and by unit which values were read in another one."""
    times, guessed = values * PER_UNIT[unit], {}
    wrong = ~_within(times, last_ms)
    for other in PER_UNIT:
        read = values * PER_UNIT[other]
        fits = wrong & _within(read, last_ms)
        if fits.any():
            times, guessed[other] = np.where(fits, read, times), fits
    return times, guessed


class Spread:
    """Takes the times of a log, and finds where they are."""

    def __init__(self, latest_ms: int) -> None:
        self._latest_ms = latest_ms
        self._first, self._last = latest_ms, EARLIEST_MS
        self._by_day: Counter[int] = Counter()

    @property
    def rows(self) -> int:
        """How many plausible times there were."""
        return self._by_day.total()

    @property
    def at_one_instant(self) -> bool:
        return self._first == self._last

    def add(self, times: NDArray[np.int64]) -> None:
        """(n,) Unix milliseconds; 0: none."""
        usable = times[_within(times, self._latest_ms)]
        if usable.size:
            self._first, self._last = min(self._first, int(usable.min())), max(self._last, int(usable.max()))
            days, rows = np.unique(usable // MS_PER_DAY, return_counts=True)
            self._by_day.update(dict(zip(days.tolist(), rows.tolist(), strict=True)))

    def span(self) -> Span:
        """Without strays: few rows, years before or after the others."""
        days = np.array(sorted(self._by_day), np.int64)
        rows = np.array([self._by_day[day] for day in days.tolist()], np.int64)
        groups = np.split(np.arange(days.size), np.flatnonzero(np.diff(days) > _GAP_DAYS) + 1)
        kept = [days[group] for group in groups if rows[group].sum() > _MOST_STRAY * self.rows]
        if not kept:
            return Span(self._first, self._last, self._latest_ms)
        first, last = int(kept[0][0]) * MS_PER_DAY, (int(kept[-1][-1]) + 1) * MS_PER_DAY - 1
        return Span(max(first, self._first), min(last, self._last), self._latest_ms)


def _within(times: NDArray[np.float64] | NDArray[np.int64], last_ms: int) -> NDArray[np.bool_]:
    return np.asarray((times >= EARLIEST_MS) & (times <= last_ms))
