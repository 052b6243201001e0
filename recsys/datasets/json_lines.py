"""JSON lines: an object on each line. Its values become the cells of the columns that they are named after.

A line that is none is a broken row, as in delimited text; a line that never ends costs its own row.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

SUFFIXES = (".jsonl", ".ndjson", ".json")
SEPARATOR = "|"  # of the values of a list
_MAX_LINE = 4 << 20  # bytes
_NO_OBJECT = "not a JSON object"
_TOO_LONG = f"a line has more than {_MAX_LINE:,} bytes"
_NESTED = "not a single value, nor a list of them"

# number of the line, from 1; the object, None of a blank line; why there is none, or ""
Line = tuple[int, dict[str, object] | None, str]
_decode = msgspec.json.Decoder(dict[str, object]).decode


def json_lines(path: Path) -> Iterator[Line]:
    """Every line of the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                _skip_to_newline(file, line)
                yield number, None, _TOO_LONG
                continue
            if not (text := line.removeprefix(b"\xef\xbb\xbf").strip()):
                yield number, None, ""
                continue
            try:
                yield number, _decode(text), ""
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield number, None, _NO_OBJECT


def _skip_to_newline(file: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(_MAX_LINE)


def cell(value: object) -> tuple[str, str]:
    """The text of a value, and why there is none, or "".

    >>> cell(["Comedy", "Drama"]), cell(4.5), cell(True), cell(None)
    (('Comedy|Drama', ''), ('4.5', ''), ('true', ''), ('', ''))
    """
    if isinstance(value, dict):
        return "", _NESTED
    if not isinstance(value, list):
        return _text(value), ""
    if any(isinstance(part, dict | list) for part in value):
        return "", _NESTED
    return SEPARATOR.join(_text(part) for part in value), ""


def names(objects: Sequence[dict[str, object]]) -> list[str]:
    """The names of the objects' values, those first that come first."""
    return list(dict.fromkeys(name for each in objects for name in each))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
