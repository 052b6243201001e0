"""Deduplicate rows without sorting them."""

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows


def first_seen(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """The m distinct rows by first occurrence, and the place of every given row among them.

    Writes positions into a table by row and reads them back: about ten times as fast as `np.unique` with its inverse,
    for four temporary bytes per catalogue item. numpy keeps the last write to a row, so positions are written in
    reverse.

    >>> [array.tolist() for array in first_seen(np.array([7, 3, 7], np.int32))]
    [[7, 3], [0, 1, 0]]
    """
    position = np.arange(len(rows), dtype=np.int32)
    table = np.empty(rows.max(initial=-1) + 1, np.int32)  # only what is written is read
    table[rows[::-1]] = position[::-1]
    first = table[rows]
    is_first = first == position
    return rows[is_first], (np.cumsum(is_first) - 1)[first]
