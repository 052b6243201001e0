"""Rows into Parquet files where they are made: Arrow writes columns, Spark's writer row by row.

Runs in Spark's executors, on a folder that they all reach by its path. A file is named after its bucket, so a task that
is run again replaces what the first attempt wrote.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.contracts.types import MS_PER_DAY
from recsys.files import staged_file
from recsys.lake.lake import COMPRESSION, DAY_PREFIX, day_of
from training.features.arrow_columns import TIME

ORDER = (TIME, "example_id", "user_id")  # of the examples of a file


def write_days(folder: Path, rows: pa.Table, bucket: int) -> None:
    """`dt=DAY/part-BUCKET.parquet` for each day of the rows, in `ORDER`."""
    days = np.asarray(rows.column(TIME), np.int64) // MS_PER_DAY
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in ORDER]))
    days.sort()
    bounds = np.append(np.flatnonzero(np.diff(days, prepend=-1)), len(days))
    for start, end in pairwise(bounds.tolist()):
        name = f"{DAY_PREFIX}{day_of(int(days[start]) * MS_PER_DAY)}"
        write_part(folder / name, rows.slice(start, end - start), bucket)


def write_part(folder: Path, rows: pa.Table, bucket: int) -> None:
    """`part-BUCKET.parquet`."""
    with staged_file(folder / f"part-{bucket:05}.parquet") as path:
        pq.write_table(rows, path, compression=COMPRESSION)
