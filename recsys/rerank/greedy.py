"""Build a list greedily: place by place, the item with the greatest gain that no cap forbids."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.items.catalogue import NO_CODE
from recsys.rerank.diversity import Objective


class Cap:
    """At most `most` items of one code (a category, a creator) in a list. `NO_CODE` is never capped."""

    def __init__(self, codes: NDArray[np.int32], most: int) -> None:
        """
        Args:
            codes: (N,) int32, one per candidate.
        """
        self.full = np.zeros(len(codes), bool)  # candidates that the cap forbids now
        self._codes = codes
        self._most = most
        self._counts: dict[int, int] = {}

    def choose(self, position: int) -> None:
        code = int(self._codes[position])
        if code == NO_CODE:
            return
        self._counts[code] = self._counts.get(code, 0) + 1
        if self._counts[code] >= self._most:
            self.full |= self._codes == code


def greedy(
    objective: Objective,
    n: int,
    places: Sequence[int],
    caps: Sequence[Cap] = (),
    pins: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Fill `places` in order; place → candidate.

    A pinned candidate ignores the caps, but counts towards them. When caps forbid all remaining candidates they are
    ignored: a full list that exceeds a cap is better than a short one.

    Args:
        n: number of candidates.
        places: places of the list to fill, most important first.
        pins: place → candidate.
    """
    pins = pins or {}
    chosen: dict[int, int] = {}
    taken = np.zeros(n, np.float32)  # added to the gains: -inf for candidates in the list or pinned
    taken[list(pins.values())] = -np.inf
    left = n - len(set(pins.values()))
    for place in places:
        if place in pins:
            position = pins[place]
        elif left:
            position = _best(objective.gains() + taken, caps)
            taken[position] = -np.inf
            left -= 1
        else:
            continue
        chosen[place] = position
        objective.choose(position, place)
        for cap in caps:
            cap.choose(position)
    return chosen


def _best(gains: NDArray[np.float32], caps: Sequence[Cap]) -> int:
    """The greatest gain that no cap forbids; when the caps forbid all, the greatest gain."""
    allowed = gains
    for cap in caps:
        allowed = np.where(cap.full, np.float32(-np.inf), allowed)
    best = int(allowed.argmax())
    return best if allowed[best] > -np.inf else int(gains.argmax())
