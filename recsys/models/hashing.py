"""Which rows of a hashed table belong to an item: for training (torch) and serving (numpy) alike."""

from typing import Any, TypeVar

Numbers = TypeVar("Numbers")  # an array or a tensor of int64

# Two odd multipliers (Dietzfelbinger's multiply-shift): numbers that collide in one hash do not in the other.
_MULTIPLIERS = (2654435761, 2246822519)
_MODULUS = 2**31 - 1


def hashed_rows(numbers: Numbers, buckets: int) -> tuple[Numbers, Numbers]:
    """The two rows of each number above 0, in a table of 2 · `buckets` + 1 rows; row 0 is that of number 0."""
    given: Any = numbers
    first, second = (
        1 + half * buckets + given * multiplier % _MODULUS % buckets
        for half, multiplier in enumerate(_MULTIPLIERS)
    )
    return first, second
