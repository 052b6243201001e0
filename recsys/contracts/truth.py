"""One reading of booleans and labels, for imports, flags of items and query parameters."""

import math

_TRUE = frozenset({"true", "t", "yes", "y", "on"})
_FALSE = frozenset(
    {"false", "f", "no", "n", "off", "null", "none", "nan", "na", "n/a", "nil", "\\n", "-", ""}
)


def truth(text: str) -> bool:
    """True for a number above 0 (a label of -1 is negative) and for the usual words, in any case.
    Raises `ValueError`: neither a number nor one of the words.

    >>> [truth(text) for text in ("1", "T", "350.5", "0.00", "-1", "off", "NULL")]
    [True, True, True, False, False, False, False]
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]!r} is neither true nor false")
    return number > 0


def truth_or_none(text: str) -> bool | None:
    """The same; None: neither true nor false."""
    try:
        return truth(text)
    except ValueError:
        return None
