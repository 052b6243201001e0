"""Byzantine clients of an evaluation: what they send instead of their updates. No defence may depend on this file."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Attack(StrEnum):
    """All send words that the protocol cannot refuse: nobody sees a single update."""

    FLIP = "flip"  # the own update backwards, 50 times as long
    HIDDEN = "hidden"  # backwards, as long as an honest group's sum, so that lengths show nothing


_BOOST = 50
_GROUP = 32


def attacked(updates: NDArray[np.int8], attack: Attack, mean: NDArray[np.floating]) -> NDArray[np.int16]:
    """What attackers send whose honest updates would be `updates` (n, m); `mean` (m,): of honest updates, as attackers
    who work together can estimate it."""
    if attack is Attack.FLIP:
        return -_BOOST * updates.astype(np.int16)
    return np.broadcast_to(np.round(-2 * _GROUP * mean).astype(np.int16), updates.shape)
