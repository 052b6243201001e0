"""The journal of a live index: every change since its snapshot, so that a killed process loses none.

One record per change: header (operation, number of rows), rows, vectors, CRC-32 of all of these. A record is one write,
so a killed process leaves at most one torn record, at the end, which was not acknowledged and is cut off. A record torn
by a full disk is cut off at once, so that the next one can follow.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.request import Rows

_HEADER = struct.Struct("<BI")
_CRC = struct.Struct("<I")


class Operation(IntEnum):
    UPSERT = 1
    REMOVE = 2


class Change(NamedTuple):
    """Rows that get new vectors, (n, d) float32, or that are removed (`vectors` is (0, d))."""

    operation: Operation
    rows: Rows
    vectors: NDArray[np.float32]


class Journal:
    """Appends changes to a file. Not thread-safe: the index's writer owns it.

    fsync: each change also survives a power failure, at the cost of a disk write.
    """

    def __init__(self, path: Path, fsync: bool = False) -> None:
        self._file = path.open("ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size  # end of the last whole record
        self._fsync = fsync

    def append(self, change: Change) -> None:
        """The change is safe from a kill of this process when this returns.

        Raises:
            OSError: it could not be written, and the file is unchanged: free disk space and retry.
        """
        header = _HEADER.pack(change.operation, len(change.rows))
        body = header + change.rows.astype("<i4").tobytes() + change.vectors.astype("<f4").tobytes()
        record = body + _CRC.pack(zlib.crc32(body))
        try:
            if (n := self._file.write(record)) != len(record):
                raise OSError(errno.ENOSPC, f"wrote only {n} of {len(record)} bytes", self._file.name)
            if self._fsync:
                os.fsync(self._file.fileno())
        except BaseException:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(record)

    def close(self) -> None:
        self._file.close()


def replay(path: Path, dimension: int) -> Iterator[Change]:
    """The changes of a journal in order; a torn last record is cut off the file. A missing file has no changes.

    Raises:
        InvalidData: a record before the last is damaged; what follows it cannot be trusted.
    """
    content = path.read_bytes() if path.exists() else b""
    position = 0
    while position < len(content):
        end = _end(content, position, dimension)
        body = content[position : end - _CRC.size]
        if end > len(content) or zlib.crc32(body) != _CRC.unpack_from(content, end - _CRC.size)[0]:
            if end < len(content):
                raise InvalidData(f"{path}: the record at byte {position} is damaged; delete the folder")
            os.truncate(path, position)
            return
        yield _decode(body, dimension)
        position = end


def _end(content: bytes, position: int, dimension: int) -> int:
    """Where the record that starts at `position` should end; beyond the content when even its header is torn."""
    if len(content) - position < _HEADER.size:
        return len(content) + 1
    operation, n = _HEADER.unpack_from(content, position)
    values = dimension if operation == Operation.UPSERT else 0
    return int(position + _HEADER.size + 4 * n * (1 + values) + _CRC.size)


def _decode(body: bytes, dimension: int) -> Change:
    operation, n = _HEADER.unpack_from(body)
    rows = np.frombuffer(body, "<i4", n, _HEADER.size)
    vectors = np.frombuffer(body, "<f4", offset=_HEADER.size + 4 * n).reshape(-1, dimension)
    return Change(Operation(operation), rows, vectors)
