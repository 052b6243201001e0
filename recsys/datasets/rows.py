"""The rows of a delimited text file, each with its line, or with what is wrong with it.

A quote that never closes would swallow the rows after it. Here it costs its own row alone: reading continues with the
line after the quote.
"""

import codecs
import csv
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from recsys.datasets.mapping import Files

# Stands for bytes that the encoding cannot decode; Unicode reserves this code point, so no text contains it.
UNDECODABLE = "\ufdd0"
_MARK_UNDECODABLE = "recsys-mark-undecodable"
_MAX_CELL = 4 << 20  # characters; also how far a quote that never closes is followed
_BLOCK = 1_000  # lines
_UNCLOSED = "a quote opens here and does not close in this row"
_TRAILING = "text follows a closing quote"
_TOO_LONG = f"a cell has more than {_MAX_CELL:,} characters"
csv.field_size_limit(_MAX_CELL)


# The first line, from 1; the number of lines, more than one if a quoted cell has line breaks; the cells, none of a
# blank line; why it cannot be split into cells, or "".
Row = tuple[int, int, Sequence[str], str]


def text_rows(path: Path, files: Files) -> Iterator[Row]:
    """Every line of the file, in one row each, the header and blank lines included.

    Raises:
        OSError, LookupError: the file cannot be read; the encoding is unknown.
    """
    is_utf8 = codecs.lookup(files.encoding).name == "utf-8"
    encoding = "utf-8-sig" if is_utf8 else files.encoding  # drops a byte order mark
    with path.open(encoding=encoding, errors=_MARK_UNDECODABLE, newline="") as lines:
        if len(files.delimiter) == 1:
            yield from _separated(lines, files)
        else:
            for number, line in enumerate(lines, start=1):
                text = line.rstrip("\r\n")
                yield number, 1, text.split(files.delimiter) if text else [], ""


def _separated(source: Iterable[str], files: Files) -> Iterator[Row]:
    """Blocks of lines without a quote are split at once; others row by row, up to the end of the block or after it."""
    lines, number = _Lines(source), 1
    width = len(files.columns) if files.columns else None
    reader = csv.reader(
        lines,
        delimiter=files.delimiter,
        quoting=csv.QUOTE_MINIMAL if files.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    while block := lines.block():
        end = number + len(block)
        if cells := _split_plain(block, files):
            yield from zip(range(number, end), itertools.repeat(1), cells, itertools.repeat(""))
            width, number = width or len(cells[0]), end
            continue
        lines.give_back(block)
        while number < end:
            lines.taken = []
            try:
                row, fault = next(reader), ""
            except csv.Error as error:
                row, fault = [], _fault(error, len(lines.taken))
            count, width = len(lines.taken), width or len(row)
            if count > 1 and (fault or len(row) != width or _swallowed(lines.taken, files.delimiter, width)):
                lines.give_back(lines.taken[1:])
                row, fault, count = [], _UNCLOSED, 1
            yield number, count, row, fault
            number += count


def _split_plain(block: list[str], files: Files) -> list[list[str]]:
    """The cells of each line; nothing if there may be a quoted or an oversized one."""
    text = "".join(block)
    if (files.quoted and '"' in text) or len(text) >= _MAX_CELL:
        return []
    return list(csv.reader(block, delimiter=files.delimiter, quoting=csv.QUOTE_NONE))


def _fault(error: csv.Error, lines: int) -> str:
    # the module has one exception for all, told apart by its text
    if lines == 1 and "expected after" in str(error):
        return _TRAILING
    return _TOO_LONG if lines == 1 and "limit" in str(error) else _UNCLOSED


def _swallowed(lines: Sequence[str], delimiter: str, width: int) -> bool:
    """Whether a quoted cell holds other rows, because an unclosed quote met the end of another one.

    It does if most of its lines look like rows: as complete as the one that opens the quote, and with digits where it
    has them.
    """
    cells = lines[0].split(delimiter)
    opening = max((n for n, cell in enumerate(cells) if cell.startswith('"')), default=0)
    digits = [n for n in range(opening) if _has_digit(cells[n])]

    def is_like_a_row(line: str) -> bool:
        found = line.split(delimiter)
        return len(found) == width and (not digits or any(_has_digit(found[n]) for n in digits))

    inside = [line for line in lines[1:] if line.strip()]
    return len(cells) == width > 1 and 2 * sum(map(is_like_a_row, inside)) > len(inside)


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


class _Lines:
    """Lines for a parser, which can be given back; `taken` are the latest ones."""

    def __init__(self, source: Iterable[str]) -> None:
        self._source = iter(source)
        self._returned: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._source)
        self.taken.append(line)
        return line

    def block(self) -> list[str]:
        """The next lines, those that were given back first; none at the end."""
        if not self._returned:
            return list(itertools.islice(self._source, _BLOCK))
        return [self._returned.popleft() for _ in range(min(_BLOCK, len(self._returned)))]

    def give_back(self, lines: Sequence[str]) -> None:
        self._returned.extendleft(reversed(lines))


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODABLE, error.end


codecs.register_error(_MARK_UNDECODABLE, _mark_undecodable)
