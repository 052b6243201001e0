"""Check whole columns, and note for each row the first thing that is wrong.

The rules are those of `recsys.contracts.events.parse_event`; a test compares their verdicts.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.events import MAX_TIME_MS
from recsys.contracts.text import MAX_ID_LENGTH, id_text
from recsys.contracts.truth import truth_or_none
from recsys.datasets.base import Batch, Broken, Tally
from recsys.datasets.mapping import TimeColumn
from recsys.datasets.reading import Chunk
from recsys.datasets.times import EARLIEST_MS, NAMES, Span, in_plausible_unit

_MAX_VALUE = 1e12
_MAX_POSITION = 1_000_000
_CELL = 80
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}$")

Mask = NDArray[np.bool_]
Rule = Callable[[str], str]


class Checker:
    """Parse and check the columns of one chunk. `good` marks the rows that have not failed."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._columns = {
            name: column.combine_chunks()
            for name, column in zip(chunk.table.column_names, chunk.table.columns, strict=True)
        }
        # 0, or 1 + index into `_reasons`
        self._verdict = np.zeros(chunk.table.num_rows, dtype=np.int64)
        self._reasons: list[tuple[str, str]] = []
        self._guessed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._verdict)

    @property
    def good(self) -> Mask:
        return np.asarray(self._verdict == 0)

    def batch(self, rows: pa.Table) -> Batch:
        """The chunk's batch; `rows` is what its good rows give."""
        chunk, kept = self._chunk, int(self.good.sum())
        read = chunk.table.num_rows + len(chunk.broken)
        broken = self.broken()
        tally = Tally(chunk.lines, chunk.blank, read, kept, len(broken))
        return Batch(chunk.file, rows, tally, broken, self._guessed)

    def broken(self) -> list[Broken]:
        """The rows that failed a check or could not be read, in row order."""
        found = list(self._chunk.broken)
        for row in np.flatnonzero(self._verdict):
            column, reason = self._reasons[self._verdict[row] - 1]
            cell = self._columns[column][row].as_py() if column else None
            shown = "" if cell is None else repr(cell)[:_CELL]
            found.append(Broken(self._chunk.file, int(self._chunk.numbers[row]), column, reason, shown))
        return sorted(found, key=lambda broken: broken.row)

    def flag(self, bad: Mask, column: str, reason: str) -> None:
        """Mark rows as broken. A row keeps its first reason."""
        if bad.any():
            self._reasons.append((column, reason))
            self._verdict[bad & self.good] = len(self._reasons)

    def text(self, column: str, rule: Rule | None = None) -> pa.Array:
        """A column as text, in the form of `rule`; null where empty."""
        texts = _as_text(self._columns[column])
        return texts if rule is None else self.ruled(texts, column, rule)

    def identifier(self, column: str, otherwise: str | None = None) -> pa.Array:
        """Ids in their one form. `otherwise`: the column of the id where the first is empty."""
        texts = self.text(column)
        texts = pc.fill_null(pc.coalesce(texts, self.text(otherwise)) if otherwise else texts, "")
        self.flag(_mask(pc.equal(texts, "")), column, "is empty")
        return self.ruled(texts, column, id_text)

    def ruled(self, texts: pa.Array, column: str, rule: Rule) -> pa.Array:
        """Texts in the form of a rule of `recsys.contracts.text`; those that break it are flagged with its reason."""
        plain = pc.and_(pc.string_is_ascii(texts), pc.utf8_is_printable(texts))
        short = pc.less_equal(pc.utf8_length(texts), MAX_ID_LENGTH)
        spaced = pc.match_substring_regex(texts, "^ | $|^\\.\\.?$")
        unsure = ~_mask(pc.fill_null(pc.and_(pc.and_(plain, short), pc.invert(spaced)), True))
        if not unsure.any():
            return texts
        rows = pa.array(np.flatnonzero(unsure))
        suspects = texts.take(rows).dictionary_encode()
        verdicts = [_judged(rule, text) for text in suspects.dictionary.to_pylist()]
        formed = pa.array([text for text, _ in verdicts], pa.string()).take(suspects.indices)
        reasons = np.array([reason for _, reason in verdicts], object)[np.asarray(suspects.indices)]
        for reason in dict.fromkeys(filter(None, reasons)):
            broken = np.zeros(len(texts), dtype=bool)
            broken[np.asarray(rows)[reasons == reason]] = True
            self.flag(broken, column, reason)
        return pc.replace_with_mask(texts, pa.array(unsure), formed)

    def number(self, column: str) -> pa.Array:
        """Finite float64; null where empty."""
        numbers, bad = _to_float(self._columns[column])
        self.flag(bad, column, "is not a number")
        self.flag(_mask(pc.greater(pc.abs(numbers), _MAX_VALUE)), column, "is out of range")
        return numbers

    def position(self, column: str, first: int = 0) -> pa.Array:
        """Integers from 0, of a column that counts from `first`; null where empty."""
        numbers, bad = _to_float(self._columns[column])
        values = np.nan_to_num(np.asarray(numbers.fill_null(float(first)))) - first
        bad |= (values != np.floor(values)) | (values < 0) | (values >= _MAX_POSITION)
        self.flag(bad, column, f"is not a position: integers from {first}")
        whole = np.where(bad, 0.0, values).astype(np.int64)
        return pa.array(whole, mask=_mask(numbers.is_null()))

    def time(self, time: TimeColumn, span: Span | None = None) -> NDArray[np.int64]:
        """Unix milliseconds of a log's rows, which must be within `span`; without one, of a column that may be empty or
        0 (unknown) and have any time. Numbers that are plausible in another unit only are read in that one."""
        column = self._columns[_named(time)]
        absent = _mask(column.is_null())
        times, bad, guessed = _to_ms(column, time.unit, span.latest_ms if span else MAX_TIME_MS - 1)
        for unit, rows in guessed.items():
            says = f"{NAMES[unit]}, not {NAMES[time.unit]}"
            self._guessed[f"{self._chunk.file}: column {time.column}: {says}"] += int((rows & ~absent).sum())
        self.flag(bad & ~absent, _named(time), "is not a time in " + NAMES[time.unit])
        if span is None:
            out = (times < 0) | (times >= MAX_TIME_MS)
            self.flag(out & ~absent & ~bad, _named(time), "is out of range for a time in " + NAMES[time.unit])
            return np.where(absent | bad | out, 0, times)
        implausible = ((times < EARLIEST_MS) | (times > span.latest_ms)) & ~absent & ~bad
        stray = ((times < span.first_ms) | (times > span.last_ms)) & ~absent & ~bad
        self.flag(implausible, _named(time), "is before 1990 or in the future, in any unit")
        self.flag(stray, _named(time), "is years away from the other rows")
        self.flag(absent, _named(time), "is empty")
        return np.where(absent | bad | implausible | stray, 0, times)

    def truth(self, column: str) -> Mask:
        """Where the cell is true; empty cells are not."""
        cells = self._columns[column]
        if pa.types.is_boolean(cells.type):
            return _mask(cells)
        encoded = pc.cast(cells, pa.string()).dictionary_encode()
        verdicts = [truth_or_none(text) for text in encoded.dictionary.to_pylist()]
        codes = np.asarray(pc.fill_null(encoded.indices, len(verdicts)))
        unknown = np.array([verdict is None for verdict in verdicts] + [False], dtype=bool)
        self.flag(unknown[codes], column, "is neither true nor false")
        true: Mask = np.array([*map(bool, verdicts), False], dtype=bool)[codes]
        return true


def _named(time: TimeColumn) -> str:
    if time.column is None:
        raise ValueError("the order of rows is not a column")
    return time.column


def _mask(values: pa.Array) -> Mask:
    """A writable numpy mask; null is False."""
    return np.array(pc.fill_null(values, False), dtype=bool)


def _judged(rule: Rule, text: str) -> tuple[str, str]:
    """The text in the rule's form, or the reason why there is none."""
    try:
        return rule(text), ""
    except ValueError as error:
        return text, str(error)


def _as_text(column: pa.Array) -> pa.Array:
    # Ids that passed through pandas: 17.0 means 17.
    if pa.types.is_floating(column.type):
        whole = pc.cast(column, pa.int64(), safe=False)
        exact = pc.fill_null(pc.equal(pc.cast(whole, pa.float64(), safe=False), column), True)
        return pc.if_else(exact, pc.cast(whole, pa.string()), pc.cast(column, pa.string()))
    return pc.cast(column, pa.string())


def _to_float(column: pa.Array) -> tuple[pa.Array, Mask]:
    """float64 with nulls, and a mask of the cells that are not finite numbers (0.0 there)."""
    try:
        numbers = pc.cast(column, pa.float64())
    except pa.ArrowInvalid:
        numbers = pa.array([_float_or_nan(cell) for cell in column.to_pylist()], pa.float64())
    values = np.asarray(numbers.fill_null(0.0))
    bad = ~np.isfinite(values)
    return (
        pa.array(np.where(bad, 0.0, values), mask=_mask(numbers.is_null())) if bad.any() else numbers
    ), bad


def _float_or_nan(cell: str | None) -> float | None:
    try:
        return None if cell is None else float(cell)
    except ValueError:
        return math.nan


def _to_ms(column: pa.Array, unit: str, last_ms: int) -> tuple[NDArray[np.int64], Mask, Mapping[str, Mask]]:
    """Unix milliseconds, the cells that are no times, and those that are in another unit, by unit."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = pc.cast(pc.cast(column, pa.timestamp("ms"), safe=False), pa.int64())
        return np.asarray(times.fill_null(0)), np.zeros(len(column), dtype=bool), {}
    if unit == "iso":
        return *_iso_to_ms(column), {}
    numbers, bad = _to_float(column)
    scaled, guessed = in_plausible_unit(np.asarray(numbers.fill_null(0.0)), unit, last_ms)
    # Times beyond 2^53 are out of range anyway, and the cast would overflow.
    return np.rint(np.clip(scaled, -1.0, 2.0**53)).astype(np.int64), bad, guessed


def _iso_to_ms(column: pa.Array) -> tuple[NDArray[np.int64], Mask]:
    times = np.zeros(len(column), dtype=np.int64)
    bad = np.zeros(len(column), dtype=bool)
    # Dates repeat, so each distinct value is parsed once.
    encoded = pc.dictionary_encode(pc.cast(column, pa.string()))
    parsed = [_parse_iso(text) for text in encoded.dictionary.to_pylist()]
    if parsed:
        codes = np.asarray(encoded.indices.fill_null(0))
        present = _mask(column.is_valid())
        times[present] = np.array([-1 if ms is None else ms for ms in parsed], dtype=np.int64)[codes][present]
        bad[present] = np.array([ms is None for ms in parsed])[codes][present]
    return times, bad


def _parse_iso(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000)
