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

from recsys.datasets.base import Broken
from recsys.datasets.mapping import Files
from recsys.errors import InvalidData

_BLOCK_BYTES = 4 << 20
_CHUNK_ROWS = 50_000
_NO_SUCH_COLUMN = "is not in the file"


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
    with path.open(encoding=files.encoding, newline="") as lines:
        if len(files.delimiter) > 1 or not files.quoted:
            return next(lines, "").rstrip("\r\n").removeprefix("\ufeff").split(files.delimiter)
        return [
            name.removeprefix("\ufeff") for name in next(csv.reader(lines, delimiter=files.delimiter), [])
        ]


def _require(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InvalidData(
            f"{path}: column {', '.join(missing)} {_NO_SUCH_COLUMN}; it has {', '.join(present)}"
        )


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Chunk]:
    with pq.ParquetFile(path) as file:
        _require(path, columns, file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(_CHUNK_ROWS, columns=list(columns)):
            table = pa.Table.from_batches([batch])
            yield Chunk(path.name, table, np.arange(first, first + len(batch), dtype=np.int64))
            first += len(batch)


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
        path,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,  # row numbers are known only so
            block_size=_BLOCK_BYTES,
            column_names=names,
            skip_rows=0 if files.columns else 1,
            encoding="utf8" if files.encoding.lower() in ("utf-8", "utf8") else files.encoding,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=files.delimiter,
            quote_char='"' if files.quoted else False,
            newlines_in_values=files.quoted,
            ignore_empty_lines=False,  # they count as rows
            invalid_row_handler=refuse,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),  # bytes, so that one bad character is one bad row
            include_columns=list(columns),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    with stream:
        for batch in stream:
            broken, malformed = malformed, []
            raw = pa.Table.from_batches([batch])
            yield _decoded(path, raw, numbers.take(len(batch)), broken)
    if malformed:
        yield _decoded(path, stream.schema.empty_table(), numbers.take(0), malformed)


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


def _decoded(path: Path, raw: pa.Table, numbers: NDArray[np.int64], broken: list[Broken]) -> Chunk:
    """Bytes to text; rows that are not text are broken, blank lines are left out."""
    keep = np.zeros(raw.num_rows, dtype=bool)
    for column in raw.columns:
        keep |= np.asarray(pc.is_valid(column))
    columns = {}
    for name, column in zip(raw.column_names, raw.columns, strict=True):
        try:
            columns[name] = pc.cast(column, pa.string())
        except pa.ArrowInvalid:
            texts, bad = _decode_slowly(column)
            columns[name] = texts
            broken += [Broken(path.name, int(n), name, "not UTF-8 text") for n in numbers[bad & keep]]
            keep &= ~bad
    table = pa.table(columns)
    if not keep.all():
        table, numbers = table.filter(pa.array(keep)), numbers[keep]
    return Chunk(path.name, table, numbers, broken)


def _decode_slowly(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.bool_]]:
    texts: list[str | None] = []
    bad = np.zeros(len(column), dtype=bool)
    for row, cell in enumerate(column.to_pylist()):
        try:
            texts.append(None if cell is None else cell.decode())
        except UnicodeDecodeError:
            texts.append(None)
            bad[row] = True
    return pa.array(texts, pa.string()), bad


def _split_lines(path: Path, files: Files, columns: Sequence[str]) -> Iterator[Chunk]:
    """Lines with a delimiter of several characters, as MovieLens writes them ("1::1193::5::978300760")."""
    names = header(path, files)
    _require(path, columns, names)
    wanted = [names.index(name) for name in columns]
    with path.open(encoding=files.encoding, newline="\n") as lines:
        numbered = enumerate(lines, start=1)
        if files.columns is None:
            next(numbered, None)
        while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
            rows, numbers, broken = [], [], []
            for number, line in chunk:
                cells = line.rstrip("\r\n").split(files.delimiter)
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
