"""Sequence augmentation (CL4SRec, Xie et al., 2022; CoSeRec, Liu et al., 2021).

Off by default; docs/recall.md has the measurements.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.choices import Augmentation
from training.two_tower.sequences import History

Augmenter = Callable[[History, np.random.Generator], History]


def augmenter(
    kind: Augmentation, rate: float = 0.2, share: float = 0.5, neighbours: NDArray[np.int32] | None = None
) -> Augmenter | None:
    """A function that changes about `rate` of the events of `share` of the histories; `SHUFFLE` all of all.

    Args:
        neighbours: (n_items, m) item rows, -1 for none; needed by `SUBSTITUTE`.
    """
    if kind is Augmentation.NONE:
        return None

    def augment(history: History, rng: np.random.Generator) -> History:
        n = len(history.numbers)
        if kind is Augmentation.SHUFFLE:
            order = rng.permutation(n)
            return history._replace(numbers=history.numbers[order], types=history.types[order])
        if n < 4 or rng.random() >= share:
            return history
        if kind is Augmentation.CROP:
            keep = max(2, round(n * (1 - rate)))
            start = int(rng.integers(0, n - keep + 1))
            return _take(history, np.arange(start, start + keep))
        if kind is Augmentation.MASK:
            stays = rng.random(n) >= rate
            stays[-1] = True
            return _take(history, np.flatnonzero(stays))
        if kind is Augmentation.REORDER:
            stretch = max(2, round(n * rate))
            start = int(rng.integers(0, n - stretch + 1))
            order = np.arange(n)
            order[start : start + stretch] = start + rng.permutation(stretch)
            return history._replace(numbers=history.numbers[order], types=history.types[order])
        if neighbours is None:
            raise ValueError("substitute needs the items' neighbours")
        chosen = neighbours[history.numbers - 1, rng.integers(0, neighbours.shape[1], n)].astype(np.int64)
        replaced = (rng.random(n) < rate) & (chosen >= 0)
        return history._replace(numbers=np.where(replaced, chosen + 1, history.numbers))

    return augment


def _take(history: History, at: NDArray[np.intp]) -> History:
    return History(history.user_id, history.numbers[at], history.types[at], history.times[at])
