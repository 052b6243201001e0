"""Files to chunks of raw columns, in bounded memory, each row with its number.

Text columns stay text: a broken number is then one broken row, not a broken file. Empty cells are null.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.datasets.base import Broken
from recsys.datasets.mapping import Files
from recsys.datasets.utf8 import NOT_TEXT, Utf8File

_BLOCK_BYTES = 4 << 20
_CHUNK_ROWS = 50_000
_TEXT_KINDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file: `table` holds the columns asked for, `numbers` (n,) int64 the row numbers."""

    file: str
    table: pa.Table
    numbers: NDArray[np.int64]
    broken: Sequence[Broken] = field(
        default_factory=tuple
    )  # rows that are no rows: too few or too many cells


def read_chunks(folder: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    """The named columns of every file, file after file in the order of `files`.

    Raises:
        InvalidData: a file is missing, unreadable, or lacks a column.
    """
    for path in find(folder, files.files):
        try:
            if path.suffix == ".parquet":
                yield from _parquet(path, columns)
            elif len(files.delimiter) > 1:
                yield from _split_lines(path, files, columns)
            else:
                yield from _csv(path, files, columns)
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError, UnicodeError, LookupError) as error:
            raise InvalidData(f"{path}: cannot be read: {error}") from error


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of each pattern, sorted within it.

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
    """The column names of a text file: its first line, unless the mapping names them."""
    if files.columns is not None:
        return list(files.columns)
    with path.open(encoding=files.encoding, errors="replace", newline="") as lines:  # reads beyond the header
        if len(files.delimiter) > 1 or not files.quoted:
            return next(lines, "").rstrip("\r\n").removeprefix("\ufeff").split(files.delimiter)
        return [
            name.removeprefix("\ufeff") for name in next(csv.reader(lines, delimiter=files.delimiter), [])
        ]


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
            plain = [_plain(path, name, batch.column(name)) for name in columns]
            table = pa.Table.from_arrays(plain, names=list(columns))
            yield Chunk(path.name, table, np.arange(first, first + len(batch), dtype=np.int64))
            first += len(batch)


def _plain(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of one of the types that the checks know: numbers, truth values, times, `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        raise InvalidData(
            f"{path}: column {name} is {column.type}; only columns of single values can be mapped"
        )
    if any(is_text(column.type) for is_text in _TEXT_KINDS):
        texts = pc.cast(column, pa.string())
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    return pc.cast(column, pa.float64()) if pa.types.is_decimal(column.type) else column


def _csv(path: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    names = header(path, files)
    _require(path, columns, names)
    malformed: list[Broken] = []
    numbers = _Numbers(first=1 if files.columns else 2)

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        numbers.skip(row.number)
        malformed.append(_wrong_width(path, row.number, row.actual_columns, row.expected_columns))
        return "skip"

    stream = pyarrow.csv.open_csv(
        Utf8File(path, files.encoding),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,  # row numbers are known only so
            block_size=_BLOCK_BYTES,
            column_names=names,
            skip_rows=0 if files.columns else 1,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=files.delimiter,
            quote_char='"' if files.quoted else False,
            newlines_in_values=files.quoted,
            ignore_empty_lines=False,  # they count as rows
            invalid_row_handler=refuse,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    with stream:
        for batch in stream:
            broken, malformed = malformed, []
            raw = pa.Table.from_batches([batch])
            yield _readable(path, files.encoding, raw, numbers.take(len(batch)), broken)
    if malformed:
        yield Chunk(path.name, stream.schema.empty_table(), numbers.take(0), malformed)


class _Numbers:
    """Row numbers of a stream from which some rows are skipped."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._skipped: list[int] = []

    def skip(self, number: int) -> None:
        self._skipped.append(number)

    def take(self, count: int) -> NDArray[np.int64]:
        if not count:
            return np.empty(0, dtype=np.int64)
        ahead = np.arange(self._next, self._next + count + len(self._skipped), dtype=np.int64)
        numbers = ahead[~np.isin(ahead, self._skipped)][:count]
        self._next = int(numbers[-1]) + 1
        self._skipped = [number for number in self._skipped if number >= self._next]
        return numbers


def _readable(
    path: Path, encoding: str, table: pa.Table, numbers: NDArray[np.int64], broken: list[Broken]
) -> Chunk:
    """Rows with bytes that are no text are broken, blank lines are left out."""
    keep = np.logical_or.reduce([np.asarray(pc.is_valid(column)) for column in table.columns])
    for name, column in zip(table.column_names, table.columns, strict=True):
        bad = np.asarray(pc.fill_null(pc.match_substring(column, NOT_TEXT), False)) & keep
        broken += [Broken(path.name, int(n), name, f"not {encoding} text") for n in numbers[bad]]
        keep &= ~bad
    if not keep.all():
        table, numbers = table.filter(pa.array(keep)), numbers[keep]
    return Chunk(path.name, table, numbers, broken)


def _split_lines(path: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    """Lines with a delimiter of several characters, as MovieLens writes them ("1::1193::5::978300760")."""
    names = header(path, files)
    _require(path, columns, names)
    wanted = [names.index(name) for name in columns]
    with path.open("rb") as lines:
        numbered = enumerate(lines, start=1)
        if files.columns is None:
            next(numbered, None)
        while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
            rows, numbers, broken = [], [], []
            for number, line in chunk:
                try:
                    cells = line.decode(files.encoding).rstrip("\r\n").split(files.delimiter)
                except UnicodeDecodeError:
                    broken.append(Broken(path.name, number, "", f"not {files.encoding} text"))
                    continue
                if len(cells) == len(names):
                    rows.append(cells)
                    numbers.append(number)
                elif cells != [""]:
                    broken.append(_wrong_width(path, number, len(cells), len(names)))
            cells_of = list(zip(*rows, strict=True)) if rows else [()] * len(names)
            arrays = [pa.array([cell or None for cell in cells_of[i]], pa.string()) for i in wanted]
            table = pa.Table.from_arrays(arrays, names=list(columns))
            yield Chunk(path.name, table, np.array(numbers, dtype=np.int64), broken)


def _wrong_width(path: Path, number: int, actual: int, expected: int) -> Broken:
    return Broken(path.name, number, "", f"{actual} columns instead of {expected}")
