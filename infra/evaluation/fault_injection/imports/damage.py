"""Ways in which exported files are damaged, on their way or by the tool that wrote them."""

import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SOME = 5  # rows that a damage touches


@dataclass(frozen=True)
class Format:
    """How a text file separates its cells, and the column of its time, if any."""

    delimiter: str = ","
    has_header: bool = True
    time: int | None = None


Lines = list[bytes]  # without their ends; the header, if any, is the first
Damage = Callable[[Lines, Format, Random], bytes]


def on_lines(change: Callable[[Lines, Format, Random], Lines]) -> Damage:
    """A damage that keeps the line ends."""
    return lambda lines, format_, random: joined(change(list(lines), format_, random))


def joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _rows(lines: Lines, format_: Format, random: Random, count: int = SOME) -> list[int]:
    """Some rows, in order; not the first and the last one."""
    first = 1 + format_.has_header
    return sorted(random.sample(range(first, len(lines) - 1), count)) if len(lines) > first + count else []


def _cells(line: bytes, format_: Format) -> Lines:
    return line.split(format_.delimiter.encode())


def _line(cells: Lines, format_: Format) -> bytes:
    return format_.delimiter.encode().join(cells)


def _cut(lines: Lines, _format: Format, random: Random) -> bytes:
    whole = joined(lines)
    return whole[: -random.randrange(2, 30)]


def _cut_in_two(lines: Lines, _format: Format, random: Random) -> bytes:
    return joined(lines[: len(lines) // 2])


def _reordered(lines: Lines, format_: Format, random: Random) -> Lines:
    head, rows = lines[: format_.has_header], lines[format_.has_header :]
    random.shuffle(rows)
    return head + rows


def _mixed_units(lines: Lines, format_: Format, random: Random) -> Lines:
    if format_.time is not None:
        for n in _rows(lines, format_, random):
            cells = _cells(lines[n], format_)
            if cells[format_.time : format_.time + 1]:
                cells[format_.time] += random.choice([b"000", b"000000", b".5"])
            lines[n] = _line(cells, format_)
    return lines


def _unclosed_quote(lines: Lines, format_: Format, random: Random) -> Lines:
    n, *_ = _rows(lines, format_, random) or [-1]
    cells = _cells(lines[n], format_)
    cell = random.randrange(len(cells))
    cells[cell] = b'"' + cells[cell]
    lines[n] = _line(cells, format_)
    return lines


def _pair_of_quotes(lines: Lines, format_: Format, random: Random) -> Lines:
    """A quote opens in one row and closes in a later one, by the rules of CSV a single cell."""
    for n, mark in zip(_rows(lines, format_, random)[:: SOME - 1], (b'"%s', b'%s"'), strict=False):
        *cells, last = _cells(lines[n], format_)
        lines[n] = _line([*cells, mark % last], format_)
    return lines


def _stray_quotes(lines: Lines, format_: Format, random: Random) -> Lines:
    for n in _rows(lines, format_, random):
        *cells, last = _cells(lines[n], format_)
        text = random.choice([rb'"said \"so\""', b'"5" wide', b'6" long', b'"', b'""', b'"""', b"'"])
        lines[n] = _line([*cells, text if random.random() < 0.5 else last + text], format_)
    return lines


def _cells_of_several_lines(lines: Lines, format_: Format, random: Random) -> Lines:
    for n in _rows(lines, format_, random):
        *cells, last = _cells(lines[n], format_)
        lines[n] = _line([*cells, b'"%s\nsecond line\r\n\nlast, in ""quotes"""' % last], format_)
    return lines


def _utf_16(lines: Lines, _format: Format, random: Random) -> bytes:
    text = joined(lines).decode("latin-1")
    return text.encode(random.choice(["utf-16", "utf-16-le", "utf-16-be"]))


def _foreign_bytes(lines: Lines, format_: Format, random: Random) -> Lines:
    for n in _rows(lines, format_, random):
        cells = _cells(lines[n], format_)
        cells[random.randrange(len(cells))] += random.choice(
            [b"\xe9", b"\xff\xfe", b"\x00", b"\x1b", b"\xc3"]
        )
        lines[n] = _line(cells, format_)
    return lines


def _byte_order_marks(lines: Lines, format_: Format, random: Random) -> bytes:
    n, *_ = _rows(lines, format_, random) or [0]
    lines = list(lines)
    lines[n] = b"\xef\xbb\xbf" + lines[n]
    return b"\xef\xbb\xbf" + joined(lines)


def _repeated(lines: Lines, format_: Format, random: Random) -> Lines:
    return lines + [lines[n] for n in _rows(lines, format_, random)]


def _concatenated(lines: Lines, format_: Format, random: Random) -> Lines:
    """Two exports in one file, the second with its header."""
    middle = len(lines) // 2
    return lines[:middle] + lines[: format_.has_header] + lines[middle:]


def _wrong_width(lines: Lines, format_: Format, random: Random) -> Lines:
    for n in _rows(lines, format_, random):
        cells = _cells(lines[n], format_)
        lines[n] = _line(random.choice([cells[:-1], [*cells, b"x"], cells[:1]]), format_)
    return lines


def _blank_rows(lines: Lines, format_: Format, random: Random) -> Lines:
    empty = _line([b""] * len(_cells(lines[0], format_)), format_)
    for n in reversed(_rows(lines, format_, random)):
        lines.insert(n, random.choice([b"", empty, b" "]))
    return lines


def _line_ends(lines: Lines, _format: Format, random: Random) -> bytes:
    ends = random.choices([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n"], k=len(lines))
    return b"".join(line + end for line, end in zip(lines, ends, strict=True))


def _no_line_end(lines: Lines, format_: Format, random: Random) -> Lines:
    for n in reversed(_rows(lines, format_, random)):
        lines[n] += lines.pop(n + 1)
    return lines


def _huge_cell(lines: Lines, format_: Format, random: Random) -> Lines:
    n, *_ = _rows(lines, format_, random) or [-1]
    lines[n] += b"x" * (5 << 20)
    return lines


def _other_delimiter(lines: Lines, format_: Format, random: Random) -> Lines:
    return [line.replace(format_.delimiter.encode(), b";") for line in lines]


def _repeated_column(lines: Lines, format_: Format, random: Random) -> Lines:
    return [_line([*(cells := _cells(line, format_)), random.choice(cells)], format_) for line in lines]


def _all_broken(lines: Lines, format_: Format, random: Random) -> Lines:
    return lines[: format_.has_header] + [line[1:3] for line in lines[format_.has_header :]]


TEXT: Mapping[str, Damage] = {
    "a quote that never closes": on_lines(_unclosed_quote),
    "a quote that closes in a later row": on_lines(_pair_of_quotes),
    "quotes within cells, escaped or not": on_lines(_stray_quotes),
    "quoted cells of several lines": on_lines(_cells_of_several_lines),
    "cut within a row": _cut,
    "cut in two": _cut_in_two,
    "reordered": on_lines(_reordered),
    "times of mixed units": on_lines(_mixed_units),
    "rows of UTF-16": _utf_16,
    "bytes of other encodings, NUL, control characters": on_lines(_foreign_bytes),
    "byte order marks at the start and within": _byte_order_marks,
    "repeated rows": on_lines(_repeated),
    "two exports in one file, each with its header": on_lines(_concatenated),
    "too few and too many cells": on_lines(_wrong_width),
    "blank rows": on_lines(_blank_rows),
    "line ends of three systems": _line_ends,
    "missing line ends": on_lines(_no_line_end),
    "a cell of 5 MiB": on_lines(_huge_cell),
    "another delimiter": on_lines(_other_delimiter),
    "a column name that occurs twice": on_lines(_repeated_column),
    "compressed": lambda lines, _format, _random: gzip.compress(joined(lines)),
    "every row broken": on_lines(_all_broken),
    "a header alone": on_lines(lambda lines, format_, random: lines[: format_.has_header]),
    "an empty file": lambda lines, _format, _random: b"",
}


# --- Parquet: a table, or the bytes of a file --------------------------------------------------------------------

TableDamage = Callable[[pa.Table, Random], pa.Table | bytes]


def as_file(table: pa.Table) -> bytes:
    """The table as a Parquet file of several row groups."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=table.num_rows // 4 or 1, write_page_checksum=True)
    return sink.getvalue()


def _flipped(table: pa.Table, random: Random) -> bytes:
    content = bytearray(as_file(table))
    for _ in range(SOME):
        content[random.randrange(4, len(content) // 2)] ^= 0xFF
    return bytes(content)


def _nulls(table: pa.Table, random: Random) -> pa.Table:
    column = random.randrange(table.num_columns)
    gone = pa.array([n % 20 == 7 for n in range(table.num_rows)])
    cells = pc.if_else(gone, pa.nulls(table.num_rows, table.column(column).type), table.column(column))
    return table.set_column(column, table.column_names[column], cells)


def _as_text(table: pa.Table, _random: Random) -> pa.Table:
    return pa.table(
        {name: [str(cell) for cell in table.column(name).to_pylist()] for name in table.column_names}
    )


PARQUET: Mapping[str, TableDamage] = {
    "Parquet cut within a row group": lambda table, random: as_file(table)[: -random.randrange(20, 2_000)],
    "Parquet with flipped bytes": _flipped,
    "Parquet reordered": lambda table, random: table.take(
        random.sample(range(table.num_rows), table.num_rows)
    ),
    "Parquet with nulls": _nulls,
    "Parquet with numbers and lists as text": _as_text,
    "Parquet with a column twice": lambda table, _random: table.append_column(
        table.column_names[0], table.column(0)
    ),
    "Parquet with repeated rows": lambda table, _random: pa.concat_tables([table, table.slice(0, SOME)]),
    "Parquet without rows": lambda table, _random: table.slice(0, 0),
}
