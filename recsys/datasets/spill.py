"""Group more rows than fit into memory by time: one file per span, so that each span can be sorted by itself.

A span that is still too large (a log of one day) is split into shorter spans.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from recsys.lake.lake import TIME

_SPANS_MS = (MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, 1_000, 1)
_FAST = pa.ipc.IpcWriteOptions(compression="lz4")


class Spill:
    """Take tables with a column `TIME` in any order, and return their rows as spans, oldest first.

    Within a span, rows keep the order in which they were added. At most about `max_rows` rows are in memory, unless
    more share one millisecond. The files are in `folder` and are deleted once read.
    """

    def __init__(self, folder: Path, max_rows: int = 500_000, level: int = 0) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._level = level
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._rows: Counter[int] = Counter()  # by span

    def add(self, table: pa.Table) -> None:
        self._held.append(table)
        self._held_rows += table.num_rows
        if self._held_rows >= self._max_rows:
            self._flush()

    def spans(self) -> Iterator[pa.Table]:
        """Every added row; each table is one span."""
        self._flush()
        for span in sorted(self._rows):
            path = self._path(span)
            if self._rows[span] <= self._max_rows or self._level + 1 == len(_SPANS_MS):
                yield pa.concat_tables(_segments(path)).combine_chunks()
            else:
                yield from self._split(path)
            path.unlink()

    def _split(self, path: Path) -> Iterator[pa.Table]:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            finer = Spill(Path(folder), self._max_rows, self._level + 1)
            for segment in _segments(path):
                finer.add(segment)
            yield from finer.spans()

    def _flush(self) -> None:
        if not self._held_rows:
            return
        rows = pa.concat_tables(self._held)
        self._held, self._held_rows = [], 0
        span = np.asarray(rows.column(TIME)) // _SPANS_MS[self._level]
        order = np.argsort(span, kind="stable")
        rows, span = rows.take(pa.array(order)), span[order]
        starts = np.flatnonzero(np.diff(span, prepend=span[0] - 1))
        for start, end in zip(starts, [*starts[1:], len(span)], strict=True):
            _append(self._path(int(span[start])), rows.slice(start, end - start))
            self._rows[int(span[start])] += int(end - start)

    def _path(self, span: int) -> Path:
        return self._folder / f"{span}.arrow"


def _append(path: Path, rows: pa.Table) -> None:
    """Append one Arrow stream to the file."""
    with path.open("ab") as file, pa.ipc.new_stream(file, rows.schema, options=_FAST) as stream:
        stream.write_table(rows)


def _segments(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as file:
        while file.tell() < file.size():
            yield pa.ipc.open_stream(file).read_all()
