"""Histories by hand."""

import numpy as np

from recsys.contracts.types import EventType
from recsys.models.encoding import TYPE_NUMBERS
from training.two_tower.sequences import History

CLICK, PURCHASE = TYPE_NUMBERS[EventType.CLICK], TYPE_NUMBERS[EventType.PURCHASE]


def history(user: str, *numbers: int, start_ms: int = 0, kind: int = CLICK) -> History:
    """An event every ten seconds, the first ten seconds after the start."""
    n = len(numbers)
    return History(
        user, np.array(numbers, np.int64), np.full(n, kind), start_ms + 10_000 * np.arange(1, n + 1)
    )


def timeless(user: str, *numbers: int) -> History:
    own = history(user, *numbers)
    return own._replace(times=np.zeros(len(numbers), np.int64))
