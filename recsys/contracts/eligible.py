"""Which items a request may show to any user: by their time, by its region and by its filter."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_Rows = NDArray[np.int32]


class Eligible:
    """A mask over the rows of the item table, and what is made of it once. Shared by requests: do not change it.

    mask: (n,) bool. Rows from n on, which are newer than the mask, are not eligible.
    narrowed: by a filter or a region, not by time alone, so deleted items are left out as well.
    offered: how many items time and region leave, before a filter, without deleted ones; None: as many as are eligible.
    """

    def __init__(self, mask: NDArray[np.bool_], narrowed: bool = False, offered: int | None = None) -> None:
        self.mask = mask
        self.narrowed = narrowed
        self.count = int(np.count_nonzero(mask))
        self.offered = self.count if offered is None else offered

    @property
    def hidden(self) -> int:
        """How many rows are not eligible."""
        return len(self.mask) - self.count

    @property
    def share(self) -> float:
        """Of all rows."""
        return self.count / max(1, len(self.mask))

    def latest(self, n: int) -> _Rows:
        """(≤ n,) int32: the last eligible rows, the latest first."""
        span = max(1, 4 * n)
        while True:
            start = max(0, len(self.mask) - span)
            found = np.flatnonzero(self.mask[start:])
            if len(found) >= n or not start:
                return (start + found[::-1][:n]).astype(np.int32)
            span *= 4

    @cached_property
    def rows(self) -> _Rows:
        """(count,) int32, sorted."""
        return np.flatnonzero(self.mask).astype(np.int32)

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """The mask with eight rows per byte, the first one in the lowest bit."""
        return np.packbits(self.mask, bitorder="little")

    def of(self, rows: _Rows) -> NDArray[np.bool_]:
        """Which of `rows` (any shape, not negative) are eligible; bool of the same shape."""
        if not len(self.mask):
            return np.zeros(rows.shape, bool)
        return self.mask.take(rows, mode="clip") & (rows < len(self.mask))
