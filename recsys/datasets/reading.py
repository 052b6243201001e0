"""Tables as chunks of raw columns, in bounded memory, each row with its number.

Every row of every file is in a chunk: in its table, among its broken rows, or counted as blank. Cells of text files
stay text, so that a broken number is one broken row and not a broken file. Empty cells are null.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.datasets.base import Broken
from recsys.datasets.json_lines import SUFFIXES, Line, cell, json_lines, names
from recsys.datasets.mapping import Files
from recsys.datasets.rows import UNDECODABLE, Row, text_rows

_CHUNK_ROWS = 50_000
_SHOWN_COLUMNS = 300  # characters of the names in a message
_OTHER_TYPES = (pa.types.is_nested, pa.types.is_time, pa.types.is_duration, pa.types.is_interval)
_STRING_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file. Each of its files gives at least one chunk."""

    file: str  # relative to the folder
    table: pa.Table  # the requested columns
    numbers: NDArray[np.int64]  # (n,) the first line of each row, or its number in a Parquet file
    broken: Sequence[Broken] = field(default_factory=tuple)  # rows that could not be split or decoded
    lines: int = 0  # all lines: the header, blank ones, and the further lines of quoted cells, too
    blank: int = 0  # rows without content


def read_chunks(folder: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    """Read the named columns of each file, in the order of `files`.

    Raises:
        InvalidData: a file is missing, unreadable, or lacks a column.
    """
    for path in find(folder, files.files):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".parquet":
            yield from parquet_chunks(path, name, columns)
        elif path.suffix in SUFFIXES:
            with _named_on_error(path):
                yield from _json(path, name, columns)
        else:
            with _named_on_error(path):
                yield from _text(path, name, files, columns)


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Find the files of each pattern, sorted within a pattern.

    Raises:
        InvalidData: nothing matches a pattern, or something that is not a file.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(folder.glob(pattern))
        if not matches:
            raise InvalidData(f"{folder}: no file {pattern}")
        for path in matches:
            if not path.is_file():
                raise InvalidData(f"{path}: not a file; name the files in a folder: {path.name}/*.parquet")
        found += matches
    return list(dict.fromkeys(found))


def header(path: Path, files: Files) -> list[str]:
    """The column names of a text file: the mapping's, or those of the header line.

    Raises:
        InvalidData: the header line cannot be split or decoded.
    """
    if files.columns is not None:
        return list(files.columns)
    _, _, names, fault = next(text_rows(path, files), (1, 0, [], ""))
    if fault or any(UNDECODABLE in name for name in names):
        raise InvalidData(f"{path}: no header in line 1: {fault or f'not {files.encoding} text'}")
    return list(names)


@contextmanager
def _named_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeError, LookupError) as error:
        raise InvalidData(f"{path}: cannot be read: {error}") from error


def _require(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    counts = Counter(present)
    if missing := [name for name in wanted if not counts[name]]:
        names = ", ".join(present)
        shown = names if len(names) <= _SHOWN_COLUMNS else names[:_SHOWN_COLUMNS] + " …"
        raise InvalidData(f"{path}: column {', '.join(missing)} is not in the file; it has {shown}")
    if repeated := [name for name in wanted if counts[name] > 1]:
        raise InvalidData(
            f"{path}: column {', '.join(repeated)} is there more than once; rename all but the one that is meant"
        )


def parquet_chunks(
    path: Path, name: str, columns: Sequence[str], lists: Sequence[str] = (), rows: int = _CHUNK_ROWS
) -> Iterator[Chunk]:
    """The named columns of one Parquet file; `lists` are those of lists, the others of single values.

    Raises:
        InvalidData: the file is unreadable, lacks a column, or a column has another type.
    """
    with _named_on_error(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        _require(path, columns, file.schema_arrow.names)
        for column in lists:
            if not pa.types.is_list(found := file.schema_arrow.field(column).type):
                raise InvalidData(f"{path}: column {column} is {found}; expected lists")
        empty = pa.RecordBatch.from_pylist([], pa.schema([file.schema_arrow.field(c) for c in columns]))
        first = 1
        for batch in itertools.chain([empty], file.iter_batches(rows, columns=list(columns))):
            arrays = [
                batch.column(column)
                if column in lists
                else _single_values(path, column, batch.column(column))
                for column in columns
            ]
            table = pa.Table.from_arrays(arrays, names=list(columns))
            numbers = np.arange(first, first + len(batch), dtype=np.int64)
            yield Chunk(name, table, numbers, lines=len(batch))
            first += len(batch)
        if first - 1 != file.metadata.num_rows:
            raise InvalidData(f"{path}: {first - 1} rows can be read of {file.metadata.num_rows}")


def _single_values(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of one of the types that the checks know: numbers, truth values, times, `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if any(is_other(column.type) for is_other in _OTHER_TYPES):
        raise InvalidData(
            f"{path}: column {name} is {column.type}; only columns of texts, numbers and instants can be mapped"
        )
    if any(is_string(column.type) for is_string in _STRING_TYPES):
        return null_if_empty(pc.cast(column, pa.string()))
    return pc.cast(column, pa.float64()) if pa.types.is_decimal(column.type) else column


def _text(path: Path, name: str, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    names = header(path, files)
    _require(path, columns, names)
    rows = text_rows(path, files)
    header_lines = 0 if files.columns is not None else next(rows)[1]
    yield _chunk(name, files.encoding, names, columns, [], header_lines)
    while (row := next(rows, None)) is not None:
        chunk = itertools.chain([row], itertools.islice(rows, _CHUNK_ROWS - 1))
        yield _chunk(name, files.encoding, names, columns, chunk, 0)


def _chunk(
    file: str,
    encoding: str,
    names: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[Row],
    lines: int,
) -> Chunk:
    """Reject rows of the wrong width and rows with undecodable cells; count rows without content, and all lines."""
    # One flat list: a list per row would keep the garbage collector busy.
    cells: list[str] = []
    kept: list[int] = []
    broken: list[Broken] = []
    blank = 0
    for number, count, row, fault in rows:
        lines += count
        if fault:
            broken.append(Broken(file, number, "", fault))
        elif not any(row):
            blank += 1
        elif len(row) != len(names):
            broken.append(Broken(file, number, "", f"{len(row)} columns instead of {len(names)}"))
        elif row == names:
            broken.append(Broken(file, number, "", "the header line again"))
        else:
            cells += row
            kept.append(number)
    numbers = np.array(kept, dtype=np.int64)
    arrays = [pa.array(cells[names.index(name) :: len(names)], pa.string()) for name in columns]
    table = pa.Table.from_arrays([null_if_empty(array) for array in arrays], names=list(columns))
    good = np.ones(len(numbers), dtype=bool)
    for name, array in zip(columns, arrays, strict=True):
        bad = np.asarray(pc.match_substring(array, UNDECODABLE)) & good
        broken += [Broken(file, int(n), name, f"not {encoding} text") for n in numbers[bad]]
        good &= ~bad
    if not good.all():
        table, numbers = table.filter(pa.array(good)), numbers[good]
    return Chunk(file, table, numbers, broken, lines, blank)


def _json(path: Path, name: str, columns: Sequence[str]) -> Iterator[Chunk]:
    lines, known = json_lines(path), False
    yield Chunk(name, _texts(columns, []), np.zeros(0, np.int64))
    while block := list(itertools.islice(lines, _CHUNK_ROWS)):
        objects = [content for _, content, _ in block if content is not None]
        if not known and objects:
            _require(path, columns, names(objects))
            known = True
        yield _objects(name, columns, block)


def _objects(file: str, columns: Sequence[str], block: Sequence[Line]) -> Chunk:
    """Reject lines without an object and objects with nested values; count blank lines."""
    rows: list[list[str]] = []
    kept: list[int] = []
    broken: list[Broken] = []
    blank = 0
    for number, content, fault in block:
        if content is None:
            blank += not fault
            broken += [Broken(file, number, "", fault)] if fault else []
            continue
        cells = [cell(content.get(column)) for column in columns]
        faults = [(column, why) for column, (_, why) in zip(columns, cells, strict=True) if why]
        if faults:
            column, why = faults[0]
            broken.append(Broken(file, number, column, why))
        else:
            rows.append([text for text, _ in cells])
            kept.append(number)
    return Chunk(file, _texts(columns, rows), np.array(kept, np.int64), broken, len(block), blank)


def _texts(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    arrays = [pa.array([row[n] for row in rows], pa.string()) for n in range(len(columns))]
    return pa.Table.from_arrays([null_if_empty(array) for array in arrays], names=list(columns))


def null_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
