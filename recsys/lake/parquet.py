"""Read one Parquet file in a small process.

`pyarrow.parquet.read_table` would load pyarrow's dataset module and pandas: 55 MiB that serving does not need
(`tests/serving/test_lean.py`).
"""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_BATCH_ROWS = 1_000


def check_regular(path: Path) -> None:
    """Raises `OSError`: nothing is there, or a folder, a device, or a pipe, which would wait for its writer."""
    if not path.is_file():
        path.stat()
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """The `optional` ones as far as the file has them.
    Raises `pyarrow.ArrowInvalid` or `OSError`: the file is missing, is not Parquet, or lacks one of the columns."""
    with _opened(path) as file:
        return file.read(columns=_wanted(file, columns, optional), use_threads=False)


def read_batches(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[pa.Table]:
    """As `read_columns`, some thousand rows after the other."""
    with _opened(path) as file:
        wanted = _wanted(file, columns, optional)
        for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
            yield pa.Table.from_batches([batch])


def _opened(path: Path) -> pq.ParquetFile:
    check_regular(path)
    try:
        return pq.ParquetFile(path)
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"the name of a column is not text: {error}") from error


def _wanted(file: pq.ParquetFile, columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    there = set(file.schema_arrow.names)
    if missing := set(columns) - there:
        raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
    return [*columns, *(name for name in optional if name in there)]


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in this schema. A nullable column that it lacks, as files of before that column do, is null in every
    row. Raises `pyarrow.ArrowException` or `KeyError`: another column is missing, or cannot be converted."""
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)
