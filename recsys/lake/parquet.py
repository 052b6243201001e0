"""Read one Parquet file in a small process.

`pyarrow.parquet.read_table` would load pyarrow's dataset module and pandas: 55 MiB that serving does not need
(`tests/serving/test_lean.py`).
"""

import errno
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def check_regular(path: Path) -> None:
    """Raises `OSError`: nothing is there, or a folder, a device, or a pipe, which would wait for its writer."""
    if not path.is_file():
        path.stat()
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Raises `pyarrow.ArrowInvalid` or `OSError`: the file is missing, is not Parquet, or lacks one of the columns."""
    check_regular(path)
    with pq.ParquetFile(path) as file:
        if missing := set(columns) - set(file.schema_arrow.names):
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
        return file.read(columns=list(columns), use_threads=False)
