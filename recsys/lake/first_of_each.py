"""Each key of a table once. Numpy and Arrow only: it runs in Spark's executors, too."""

import numpy as np
import pyarrow as pa


def first_of_each(rows: pa.Table, key: str) -> pa.Table:
    """The first row of each key, in the table's order, wherever its others are: a retry may have come with another
    event time."""
    codes = np.asarray(rows.column(key).combine_chunks().dictionary_encode().indices)
    # codes follow the order of first appearance
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    return rows if new.all() else rows.filter(pa.array(new))
