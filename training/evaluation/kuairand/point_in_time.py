"""Point-in-time sums: what was known just before each row, by key. Numpy only, one sort per key."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class PointInTimeSums:
    """Rows of one key in time order. `sum(values)` at row i adds the rows of the same key before `as_of[i]`."""

    def __init__(
        self, keys: Sequence[NDArray[Any]], times: NDArray[np.int64], as_of: NDArray[np.int64] | None = None
    ) -> None:
        """
        Args:
            keys: one or more (n,) columns; rows are grouped by their combination.
            times: (n,) when each row happened, any integer clock.
            as_of: (n,) when each row asks, on the same clock; default: when it happened (rows of the same instant
                do not see each other).
        """
        code = np.zeros(len(times), np.int64)
        for key in keys:
            _, inverse = np.unique(key, return_inverse=True)
            _, code = np.unique(code * (int(inverse.max(initial=0)) + 1) + inverse, return_inverse=True)
        self._base, self._span = int(times.min()), int(times.max() - times.min()) + 3
        self._code = code.astype(np.int64) * self._span
        self._clock = times - self._base + 1
        self._as_of = self._clock if as_of is None else as_of - self._base + 1
        self._order = np.lexsort((self._clock, code))
        self._sorted = (self._code + self._clock)[self._order]
        self._end = self._first_at(self._as_of)

    def _first_at(self, clock: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place, in sorted order, of the first row of each row's key at `clock` or later."""
        # all times before the first row are alike, and all after the last one
        within = np.clip(clock, 0, self._span - 1)
        return np.searchsorted(self._sorted, self._code + within, side="left")

    def sum(self, values: NDArray[Any], window: int | None = None) -> Floats:
        """(n,) sums over the rows before, of the last `window` of the clock if given."""
        begin = self._first_at(np.zeros_like(self._as_of) if window is None else self._as_of - window)
        sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64)[self._order])])
        return np.asarray(sums[self._end] - sums[np.minimum(begin, self._end)])

    def count(self, window: int | None = None) -> Floats:
        return self.sum(np.ones(len(self._code)), window)

    def rate(
        self, values: NDArray[Any], prior: NDArray[Any] | float, strength: float, window: int | None = None
    ) -> Floats:
        """Mean of the values before, shrunk to `prior` as if `strength` rows had it."""
        return np.asarray((self.sum(values, window) + strength * prior) / (self.count(window) + strength))
