"""Deduplicate a table by key. Numpy and Arrow only, because Spark's executors run it, too."""

import numpy as np
import pyarrow as pa


def first_of_each(rows: pa.Table, key: str) -> pa.Table:
    """The first row of each key, in the table's order. Repeats need not be adjacent: a retry may have another time.

    >>> first_of_each(pa.table({"id": ["a", "b", "a"], "n": [1, 2, 3]}), "id").column("n").to_pylist()
    [1, 2]
    """
    codes = np.asarray(rows.column(key).combine_chunks().dictionary_encode().indices)
    # codes follow the order of first appearance
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    return rows if new.all() else rows.filter(pa.array(new))
