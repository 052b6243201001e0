"""The first rows of tables that nobody has described yet: delimiter, header and cells, as texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.datasets import json_lines
from recsys.datasets.column_profile import Profile, profile
from recsys.datasets.mapping import Files
from recsys.datasets.rows import UNDECODABLE, text_rows

ROWS = 20_000  # of each table
_SNIFFED = 50  # lines
_DELIMITERS = ("\t", "::", ";", "|", ",")
SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".parquet", *json_lines.SUFFIXES)


@dataclass(frozen=True)
class Sample:
    """A table: files with the same columns, and what its first rows look like. `header`: whether the file names its
    columns."""

    files: Files
    columns: dict[str, list[str | None]]
    header: bool = True

    @cached_property
    def profiles(self) -> list[Profile]:
        """Of each column, in the file's order."""
        return [profile(name, cells) for name, cells in self.columns.items()]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))


def samples(folder: Path, files: Sequence[Path], strict: bool = True) -> list[Sample]:
    """Sample each file; files with the same columns become one table.

    Args:
        strict: refuse a file that is no table; else leave it out.

    Raises:
        InvalidData: a file is empty, unreadable, or no table.
    """
    found: dict[tuple[str, ...], Sample] = {}
    for path in files:
        try:
            new = _sample(folder, path)
        except InvalidData:
            if strict:
                raise
            continue
        key = (path.suffix, *new.columns)
        if key in found:
            same = found[key]
            joined = same.files.model_copy(update={"files": [*same.files.files, *new.files.files]})
            found[key] = Sample(joined, same.columns, same.header)
        else:
            found[key] = new
    return list(found.values())


def _sample(folder: Path, path: Path) -> Sample:
    if path.suffix == ".parquet":
        return _parquet(folder, path)
    return _json(folder, path) if path.suffix in json_lines.SUFFIXES else _text(folder, path)


def _json(folder: Path, path: Path) -> Sample:
    """Values that are no cells, such as nested objects, are left out."""
    try:
        lines = list(islice(json_lines.json_lines(path), ROWS))
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error}") from error
    objects = [content for _, content, _ in lines if content]
    if not objects:
        raise InvalidData(f"{path}: no JSON object on a line of its own among the first {len(lines):,}")
    columns = {
        name: [json_lines.cell(each.get(name))[0] or None for each in objects]
        for name in json_lines.names(objects)
    }
    return Sample(Files(files=[_name(folder, path)]), columns)


def _parquet(folder: Path, path: Path) -> Sample:
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(ROWS), None)
            table = pa.Table.from_batches([batch] if batch else [], file.schema_arrow)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InvalidData(f"{path}: cannot be read: {error}") from error
    columns = {name: [_cell(value) for value in table[name].to_pylist()] for name in table.column_names}
    return Sample(Files(files=[_name(folder, path)]), columns)


def _cell(value: object) -> str | None:
    if value is None:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _text(folder: Path, path: Path) -> Sample:
    name = _name(folder, path)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            head = [line.rstrip("\r\n") for line in islice(lines, _SNIFFED)]
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error}") from error
    delimiter = _delimiter([line for line in head if line])
    if delimiter is None:
        raise InvalidData(f"{path}: no table: no delimiter splits its lines into the same number of columns")
    files = Files(files=[name], delimiter=delimiter, quoted=len(delimiter) == 1)
    rows = [
        list(cells) for _, _, cells, fault in islice(text_rows(path, files), ROWS + 1) if cells and not fault
    ]
    if any(UNDECODABLE in cell for row in rows for cell in row):
        files = files.model_copy(update={"encoding": "latin-1"})
        rows = [
            list(cells)
            for _, _, cells, fault in islice(text_rows(path, files), ROWS + 1)
            if cells and not fault
        ]
    header = _is_header(rows)
    names = rows[0] if header else [f"column{n}" for n in range(1, len(rows[0]) + 1)]
    if not header:
        files = files.model_copy(update={"columns": names})
    kept = [row for row in (rows[1:] if header else rows) if len(row) == len(names)]
    return Sample(files, {name: [row[n] or None for row in kept] for n, name in enumerate(names)}, header)


def _delimiter(lines: Sequence[str]) -> str | None:
    """The one that splits most lines into as many columns as the first, and into most columns."""
    best, most = None, (0.0, 0)
    for delimiter in _DELIMITERS:
        widths = [line.count(delimiter) for line in lines]
        if not widths or not widths[0]:
            continue
        # quoted cells may have more of them
        fits = sum(width >= widths[0] for width in widths) / len(widths)
        if fits > 0.5 and (fits, widths[0]) > most:
            best, most = delimiter, (fits, widths[0])
    return best


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Names are no numbers, differ, and stand over cells of which some are numbers, or look like words."""
    if not rows:
        return False
    first = rows[0]
    if len(set(first)) < len(first) or any(not name or _is_number(name) for name in first):
        return False
    below = [row for row in rows[1:200] if len(row) == len(first)]
    numbers_below = any(
        below and all(_is_number(row[n]) or not row[n] for row in below) for n in range(len(first))
    )
    return numbers_below or all(
        name.replace("_", "").replace(" ", "").replace("-", "").isalnum() for name in first
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
