"""Reading one Parquet file in a process that must stay small.

`pyarrow.parquet.read_table` loads pyarrow's dataset module and, where it is installed, pandas: 55 MiB of a serving
process that uses neither (a test watches that it stays so).
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Raises `pyarrow.ArrowInvalid` or `OSError`: the file is missing, is no Parquet, or lacks one of the columns."""
    with pq.ParquetFile(path) as file:
        if missing := set(columns) - set(file.schema_arrow.names):
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
        return file.read(columns=list(columns), use_threads=False)
