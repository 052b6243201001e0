"""Tables as chunks of raw columns, in bounded memory, each row with its number.

Cells of text files stay text, so that a broken number is one broken row and not a broken file. Empty cells are null.
"""

import codecs
import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.datasets.base import Broken
from recsys.datasets.mapping import Files

_CHUNK_ROWS = 50_000
_STRING_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)
# Stands for bytes that the encoding cannot decode; Unicode reserves this code point, so no text contains it.
_UNDECODABLE = "\ufdd0"
_MARK_UNDECODABLE = "recsys-mark-undecodable"
csv.field_size_limit(4 << 20)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file."""

    file: str
    table: pa.Table  # the requested columns
    numbers: NDArray[np.int64]  # (n,) row numbers
    broken: Sequence[Broken] = field(default_factory=tuple)  # rows that could not be split or decoded


def read_chunks(folder: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    """Read the named columns of each file, in the order of `files`.

    Raises:
        InvalidData: a file is missing, unreadable, or lacks a column.
    """
    for path in find(folder, files.files):
        try:
            yield from (_parquet(path, columns) if path.suffix == ".parquet" else _text(path, files, columns))
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError, UnicodeError, LookupError, csv.Error) as error:
            raise InvalidData(f"{path}: cannot be read: {error}") from error


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Find the files of each pattern, sorted within a pattern.

    Raises:
        InvalidData: nothing matches a pattern.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not matches:
            raise InvalidData(f"{folder}: no file {pattern}")
        found += matches
    return list(dict.fromkeys(found))


def header(path: Path, files: Files) -> list[str]:
    """The column names of a text file: the mapping's, or those of the header line."""
    return list(files.columns) if files.columns is not None else next(_records(path, files), [])


def _require(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InvalidData(
            f"{path}: column {', '.join(missing)} is not in the file; it has {', '.join(present)}"
        )


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Chunk]:
    with pq.ParquetFile(path) as file:
        _require(path, columns, file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(_CHUNK_ROWS, columns=list(columns)):
            arrays = [_single_values(path, name, batch.column(name)) for name in columns]
            table = pa.Table.from_arrays(arrays, names=list(columns))
            yield Chunk(path.name, table, np.arange(first, first + len(batch), dtype=np.int64))
            first += len(batch)


def _single_values(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of one of the types that the checks know: numbers, truth values, times, `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        raise InvalidData(
            f"{path}: column {name} is {column.type}; only columns of single values can be mapped"
        )
    if any(is_string(column.type) for is_string in _STRING_TYPES):
        return null_if_empty(pc.cast(column, pa.string()))
    return pc.cast(column, pa.float64()) if pa.types.is_decimal(column.type) else column


def _text(path: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    names = header(path, files)
    _require(path, columns, names)
    rows = enumerate(_records(path, files), start=1)
    if files.columns is None:
        next(rows, None)
    while (row := next(rows, None)) is not None:
        chunk = itertools.chain([row], itertools.islice(rows, _CHUNK_ROWS - 1))
        yield _chunk(path.name, files.encoding, names, columns, chunk)


def _records(path: Path, files: Files) -> Iterator[list[str]]:
    """The cells of each record; none for a blank line."""
    is_utf8 = codecs.lookup(files.encoding).name == "utf-8"
    encoding = "utf-8-sig" if is_utf8 else files.encoding  # drops a byte order mark
    with path.open(encoding=encoding, errors=_MARK_UNDECODABLE, newline="") as lines:
        if len(files.delimiter) == 1:
            yield from csv.reader(
                lines,
                delimiter=files.delimiter,
                quoting=csv.QUOTE_MINIMAL if files.quoted else csv.QUOTE_NONE,
            )
        else:
            stripped = (line.rstrip("\r\n") for line in lines)
            yield from (line.split(files.delimiter) if line else [] for line in stripped)


def _chunk(
    file: str,
    encoding: str,
    names: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[tuple[int, list[str]]],
) -> Chunk:
    """Reject rows of the wrong width and rows with undecodable cells; skip rows without content."""
    # One flat list: a list per row would keep the garbage collector busy.
    cells: list[str] = []
    kept: list[int] = []
    broken: list[Broken] = []
    for number, row in rows:
        if len(row) != len(names):
            if row:
                broken.append(Broken(file, number, "", f"{len(row)} columns instead of {len(names)}"))
        elif any(row):
            cells += row
            kept.append(number)
    numbers = np.array(kept, dtype=np.int64)
    arrays = [pa.array(cells[names.index(name) :: len(names)], pa.string()) for name in columns]
    table = pa.Table.from_arrays([null_if_empty(array) for array in arrays], names=list(columns))
    good = np.ones(len(numbers), dtype=bool)
    for name, array in zip(columns, arrays, strict=True):
        bad = np.asarray(pc.match_substring(array, _UNDECODABLE)) & good
        broken += [Broken(file, int(n), name, f"not {encoding} text") for n in numbers[bad]]
        good &= ~bad
    if not good.all():
        table, numbers = table.filter(pa.array(good)), numbers[good]
    return Chunk(file, table, numbers, broken)


def null_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _UNDECODABLE, error.end


codecs.register_error(_MARK_UNDECODABLE, _mark_undecodable)
