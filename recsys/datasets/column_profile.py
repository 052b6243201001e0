"""What a sample of a column's cells looks like: the evidence that a mapping is guessed from."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY
from recsys.datasets.mapping import TimeUnit
from recsys.datasets.times import EARLIEST_MS, PER_UNIT

_FEW = 40  # distinct values that are kept with their counts
_NEARLY_ALL = 0.95
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")


@dataclass(frozen=True)
class Profile:
    """A column of `rows` sampled cells, of which `filled` are not empty.

    low, high: of the numbers. values: how often each of few distinct cells occurs; empty if there are many.
    """

    name: str
    rows: int
    filled: int
    distinct: int
    numeric: bool
    whole: bool  # all numbers are integers
    low: float
    high: float
    unit: TimeUnit | None  # if the cells can be times
    values: Counter[str] = field(default_factory=Counter)

    @property
    def words(self) -> tuple[str, ...]:
        """Of the name (`words_of`)."""
        return words_of(self.name)

    @property
    def binary(self) -> bool:
        """At most two values, as a label has: 0 and 1, true and false, or a mark and nothing."""
        return 0 < self.distinct <= 2 and set(self.values) <= _BINARY

    @property
    def unique(self) -> bool:
        """Each cell occurs once."""
        return 0 < self.rows == self.filled == self.distinct

    @property
    def ordinal(self) -> bool:
        """Few small numbers, as ratings are."""
        return self.numeric and 2 < self.distinct <= _FEW and self.low >= -100 and self.high <= 100


_BINARY = frozenset({"0", "1", "0.0", "1.0", "true", "false", "True", "False", "TRUE", "FALSE"})
_BINARY |= {"yes", "no", "Yes", "No", "y", "n", "Y", "N", "t", "f", "T", "F", "-1"}


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column's name, in lower case.

    >>> words_of("movieId"), words_of("reviewerID"), words_of("is_click")
    (('movie', 'id'), ('reviewer', 'id'), ('is', 'click'))
    """
    return tuple(word.lower() for word in _WORDS.findall(name))


def profile(name: str, cells: Sequence[str | None]) -> Profile:
    """Of the sampled cells as texts; None: empty."""
    filled = [cell for cell in cells if cell]
    counts = Counter(filled)
    numbers = _numbers(list(counts))
    numeric = numbers is not None and len(numbers) > 0
    low, high = (
        (float(numbers.min()), float(numbers.max())) if numbers is not None and numeric else (0.0, 0.0)
    )
    return Profile(
        name=name,
        rows=len(cells),
        filled=len(filled),
        distinct=len(counts),
        numeric=numeric,
        whole=numeric and numbers is not None and bool((numbers == np.rint(numbers)).all()),
        low=low,
        high=high,
        unit=_unit(list(counts), numbers),
        values=counts if len(counts) <= _FEW else Counter(),
    )


def _numbers(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """None: not all of the texts are numbers."""
    try:
        numbers = np.array([float(text) for text in texts], np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _unit(texts: Sequence[str], numbers: NDArray[np.float64] | None) -> TimeUnit | None:
    if not texts:
        return None
    latest_ms = time.time_ns() / 1e6 + MS_PER_DAY
    if numbers is None:
        return "iso" if sum(map(_is_iso, texts)) >= _NEARLY_ALL * len(texts) else None
    for unit in _UNITS:
        read = numbers * PER_UNIT[unit]
        if np.mean((read >= EARLIEST_MS) & (read <= latest_ms)) >= _NEARLY_ALL:
            return unit
    return None


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return not text.strip().isdigit()  # 20260102 is a number
