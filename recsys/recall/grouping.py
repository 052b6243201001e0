"""Equal rows of a list, found without sorting it."""

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows


def first_seen(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """The m different rows in the order in which each comes first, and the place of every given row among them.

    Writes positions into a table by row and reads them back: some ten times as quick as `np.unique` with its
    inverse, for the four bytes an item of the catalogue that the table takes meanwhile. Of writes to the same row the
    last one stays (numpy's word), so they are made from the end.

    >>> [array.tolist() for array in first_seen(np.array([7, 3, 7], np.int32))]
    [[7, 3], [0, 1, 0]]
    """
    position = np.arange(len(rows), dtype=np.int32)
    table = np.empty(rows.max(initial=-1) + 1, np.int32)  # only what is written is read
    table[rows[::-1]] = position[::-1]
    first = table[rows]
    is_first = first == position
    return rows[is_first], (np.cumsum(is_first) - 1)[first]
