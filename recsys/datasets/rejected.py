"""Rejected rows: `lake/rejected/<data set>.parquet`, with file, row, column, reason and cell."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.base import Broken
from recsys.lake.lake import COMPRESSION

FOLDER = "rejected"
SCHEMA = pa.schema(
    [pa.field(f.name, pa.int64() if f.type is int else pa.string(), nullable=False) for f in fields(Broken)]
)


class Rejected:
    """Collect broken rows in a temporary file; `publish` moves it into the lake."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: Sequence[Broken]) -> None:
        if not rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, SCHEMA, compression=COMPRESSION)
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        self._writer.write_table(pa.table(columns, schema=SCHEMA))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def publish(self, path: Path) -> None:
        """Replace the rejected rows of an earlier import; without broken rows, remove them."""
        self.close()
        if self._temporary.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.rename(path)
        else:
            path.unlink(missing_ok=True)
