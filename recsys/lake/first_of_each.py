"""Deduplicate a table by key. Numpy and Arrow only, because Spark's executors run it, too."""

import numpy as np
import pyarrow as pa


def first_of_each(rows: pa.Table, *key: str) -> pa.Table:
    """The first row of each key (one or more columns), in the table's order. Repeats need not be adjacent: a retry may
    have another time.

    >>> rows = pa.table({"user": ["u", "v", "u"], "id": ["a", "a", "a"], "n": [1, 2, 3]})
    >>> first_of_each(rows, "user", "id").column("n").to_pylist()
    [1, 2]
    """
    codes = np.zeros(rows.num_rows, np.int64)
    for name in key:
        column = rows.column(name).combine_chunks().dictionary_encode()
        pairs = codes * max(len(column.dictionary), 1) + np.asarray(column.indices)
        # codes follow the order of first appearance
        codes = np.asarray(pa.array(pairs).dictionary_encode().indices, np.int64)
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    return rows if new.all() else rows.filter(pa.array(new))
