"""How examples lie in files: what is the same for all rows of a list is written once, vectors are bytes.

Spark's row-wise writer pays for each value of a list, and a row has 77 floats and up to 150 entries of a history,
though the rows of a list (of one user at one instant) have the same history. Here is no Spark, so whatever reads
examples can use it.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from training.features.arrow_columns import TIME

FEATURES = "features"
# of a list; null in its other rows
HISTORY = {"history_items": pa.string(), "history_types": pa.string(), "history_times": pa.int64()}
TALLY = {"tally_buckets": pa.int64(), "tally_looks": pa.int64(), "tally_clicks": pa.int64()}
OF_A_LIST = HISTORY | TALLY
_KEY = ("user_id", TIME)


def first_of_list(rows: pa.Table) -> NDArray[np.bool_]:
    """(n,): whether a row is the first of its user and instant; rows are in that order."""
    first = np.zeros(len(rows), bool)
    first[:1] = True
    for name in _KEY:
        column = rows.column(name).combine_chunks()
        first[1:] |= np.asarray(pc.not_equal(column[1:], column[:-1]))
    return first


def lists_at(rows: NDArray[np.bool_], bounds: NDArray[np.int64], values: pa.Array) -> pa.Array:
    """A list array that is null but in `rows` (n,), which get the m lists of `values` between `bounds` (m + 1,)."""
    before = np.concatenate(([0], np.cumsum(rows)))
    return pa.ListArray.from_arrays(pa.array(bounds[before], pa.int32()), values, mask=pa.array(~rows))


def bytes_of(matrix: NDArray[np.float32]) -> pa.Array:
    """The rows of a matrix (n, D) as a binary array of n times 4 D bytes, little-endian."""
    n, width = matrix.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width * 4
    if offsets[-1] > np.iinfo(np.int32).max:
        raise InvalidData(f"{n:,} rows of {width} features are too many for one bucket: raise `--buckets`")
    data = np.ascontiguousarray(matrix, "<f4")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), n, buffers)


def matrix_of(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """The inverse of `bytes_of`: (n, width) float32.

    Raises:
        InvalidData: a row has another width, or the column is of another kind.
    """
    if not pa.types.is_binary(column.type):
        raise InvalidData(f"examples of an older release ({column.type}): run `recsys features build` again")
    lengths = np.asarray(pc.fill_null(pc.binary_length(column), 0))
    wrong = np.flatnonzero(lengths != 4 * width)
    if len(wrong):
        raise InvalidData(
            f"examples: row {wrong[0]} has {lengths[wrong[0]] // 4} features, the definitions have {width}; "
            "run `recsys features build` again"
        )
    parts = [np.frombuffer(b"", "<f4")]
    for chunk in column.chunks:
        first = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset] if len(chunk) else 0
        data = chunk.buffers()[2] if len(chunk) and width else b""
        parts.append(np.frombuffer(data, "<f4", len(chunk) * width, int(first) if width else 0))
    return np.concatenate(parts).reshape(len(column), width)


def unpacked(rows: pa.Table) -> pa.Table:
    """Each row with the history and tally of its list, as far as `rows` has those columns. Features stay bytes.

    Raises:
        InvalidData: the row that has them is not among `rows`, which must be those of whole files.
    """
    wanted = [name for name in OF_A_LIST if name in rows.column_names]
    if not wanted or not rows.column(wanted[0]).null_count:
        return rows
    has = np.asarray(pc.is_valid(rows.column(wanted[0])))
    users = np.asarray(rows.column("user_id").combine_chunks().dictionary_encode().indices, np.int64)
    times = np.asarray(rows.column(TIME), np.int64)
    order = np.lexsort((~has, times, users))  # the row that has them comes first
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(users[order]) != 0) | (np.diff(times[order]) != 0)
    owner = np.empty(len(order), np.int64)
    owner[order] = order[new][np.cumsum(new) - 1]
    if not has[owner].all():
        raise InvalidData("examples without their history: run `recsys features build --rebuild`")
    for name in wanted:
        filled = rows.column(name).take(pa.array(owner))
        rows = rows.set_column(rows.column_names.index(name), name, filled)
    return rows
