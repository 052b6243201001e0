"""A text of every item as codes, so that a condition is evaluated once per distinct text instead of once per item."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.filters import Among, Missing, Order
from recsys.contracts.truth import truth_or_none

Rows = NDArray[np.int32]
Values = tuple[str, ...]  # of one item; none: missing
_LONGEST_WORD = 8  # that means true or false
_NONE = 0  # the code of items without a value


class TextColumn:
    """The values of one field by row. Grows with the catalogue; a code, once given, keeps its values."""

    def __init__(self) -> None:
        self._codes = np.zeros(0, np.int32)
        self._known: dict[Values, int] = {(): _NONE}
        self._by_text: dict[str, list[int]] = {}  # value → codes
        self._by_truth: dict[bool, list[int]] = {False: [], True: []}
        self._numbers: list[float] = []
        self._with_number: list[int] = []  # the code of each number
        self._sealed: tuple[NDArray[np.float64], NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        """Number of distinct values, those included that no item has any more."""
        return len(self._known)

    def write(self, rows: NDArray[np.int64], values: Sequence[Values]) -> None:
        """Set the values of these rows."""
        most = int(rows.max(initial=-1)) + 1
        if most > len(self._codes):
            grown = np.zeros(max(most, 2 * len(self._codes)), np.int32)
            grown[: len(self._codes)] = self._codes
            self._codes = grown
        self._codes[rows] = [self._code(each) for each in values]

    def mask(self, condition: Among | Order | Missing, rows: Rows | slice) -> NDArray[np.bool_]:
        """(n,) bool: which of the rows the condition holds for."""
        holds = np.zeros(len(self._known), bool)
        match condition:
            case Missing():
                holds[_NONE] = True
            case Order(operator=operator, bound=bound):
                numbers, codes = self._sorted_out()
                holds[codes[_compared(numbers, operator, bound)]] = True
            case Among(texts=texts, numbers=wanted, truths=truths):
                holds[[code for text in texts for code in self._by_text.get(text, ())]] = True
                holds[[code for each in truths for code in self._by_truth[each]]] = True
                if wanted:
                    numbers, codes = self._sorted_out()
                    holds[codes[np.isin(numbers, list(wanted))]] = True
        return holds.take(self._codes[rows])

    @property
    def has_numbers(self) -> bool:
        """Some item has, or once had, a number."""
        return bool(self._numbers)

    @property
    def has_truths(self) -> bool:
        """Some item has, or once had, a text that means true or false."""
        return any(self._by_truth.values())

    def _code(self, values: Values) -> int:
        code = self._known.get(values)
        if code is None:
            code = self._known[values] = len(self._known)
            self._learn(values, code)
        return code

    def _learn(self, values: Values, code: int) -> None:
        """What the values of a new code can be compared with."""
        self._sealed = None
        for text in values if len(values) < 2 else dict.fromkeys(values):
            self._by_text.setdefault(text, []).append(code)
            if (number := number_of(text)) is not None:
                self._numbers.append(number)
                self._with_number.append(code)
                self._by_truth[number > 0].append(code)
            elif len(text) <= _LONGEST_WORD and (true := truth_or_none(text)) is not None:
                self._by_truth[true].append(code)

    def _sorted_out(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """The numbers, and the code that each belongs to."""
        if self._sealed is None:
            self._sealed = np.array(self._numbers), np.array(self._with_number, np.int32)
        return self._sealed


def number_of(text: str) -> float | None:
    """The number that a text is; None: it is none.

    >>> [number_of(text) for text in ("19.90", "-3", "1e3", "19,90", "1_000", "nan")]
    [19.9, -3.0, 1000.0, None, None, None]
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _compared(numbers: NDArray[np.float64], operator: str, bound: float) -> NDArray[np.bool_]:
    compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[operator]
    found: NDArray[np.bool_] = compare(numbers, bound)
    return found


def time_mask(times: NDArray[np.int64], condition: Among | Order | Missing) -> NDArray[np.bool_]:
    """(n,) bool: the Unix milliseconds, 0 for none, for which the condition holds."""
    match condition:
        case Missing():
            return np.asarray(times == 0)
        case Order(operator=operator, bound=bound):
            return np.asarray((times != 0) & _compared(times.astype(np.float64), operator, bound))
        case Among(numbers=wanted):
            return np.asarray((times != 0) & np.isin(times, list(wanted)))
