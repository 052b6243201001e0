"""Windows: how much a tile counts, by its age.

As of t, a tile has the age `t // hop - tile`, and a total is the sum over tiles of `weight[age] · count`. A window of
the last w is the table 1, 1, … 1 (a sawtooth window, as in chronon: between w and w + hop long); a decay is a table
of fixed-point integers. So every total is an exact integer sum, and all readers need only the table. Like a cell, a
total saturates at `MAX_SUM`; so that its products fit, too, a tile counts as at most `largest`.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import MAX_SUM
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE

DECAY_UNIT = 1 << 16  # the weight of age 0; fixed point, 16 bits
_DECAY_HALF_LIVES = 4  # a decay ends here, at 1/16 of the weight


@dataclass(frozen=True, slots=True)
class Window:
    """A weight table over tile ages.

    `label` names it in feature names. `hop_ms` 0: all time, one cell. Otherwise tiles of age `skip` … `tiles` - 1
    count, with weight 1, or with a weight that halves every `half_life` tiles when that is not 0.
    """

    label: str
    hop_ms: int
    tiles: int
    half_life: int = 0
    skip: int = 0

    @property
    def unit(self) -> int:
        """What one event of age 0 adds to the total."""
        return DECAY_UNIT if self.half_life else 1

    @property
    def largest(self) -> int:
        """What a tile counts at most: its product with a weight is at most `MAX_SUM`."""
        return MAX_SUM // self.unit

    @property
    def retention_ms(self) -> int:
        """How long a tile is needed."""
        return self.tiles * self.hop_ms

    @property
    def weights(self) -> NDArray[np.int64]:
        """(tiles,) int64, by age."""
        return _weights(self.tiles, self.half_life, self.skip)


def saturated(totals: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) totals as they are read: at most `MAX_SUM`."""
    return np.minimum(totals, MAX_SUM)


EVER = Window("ever", 0, 1)


def last(window_ms: int) -> Window:
    """The last `window_ms`: the tiles from that of t - `window_ms` to that of t.

    >>> last(7 * MS_PER_DAY)
    Window(label='7d', hop_ms=3600000, tiles=169, half_life=0, skip=0)
    """
    hop = hop_for(window_ms)
    if window_ms % hop:
        raise ValueError(f"a window of {window_ms} ms is not a multiple of its hop, {hop} ms")
    return Window(_label(window_ms), hop, window_ms // hop + 1)


def decayed(half_life_ms: int) -> Window:
    """A count whose weight halves every `half_life_ms`, followed for four half-lives.

    >>> decayed(7 * MS_PER_DAY)
    Window(label='decay7d', hop_ms=86400000, tiles=29, half_life=7, skip=0)
    """
    horizon = last(_DECAY_HALF_LIVES * half_life_ms)
    if half_life_ms % horizon.hop_ms:
        raise ValueError(
            f"a half-life of {half_life_ms} ms is not a multiple of its hop, {horizon.hop_ms} ms"
        )
    return Window(
        f"decay{_label(half_life_ms)}", horizon.hop_ms, horizon.tiles, half_life_ms // horizon.hop_ms
    )


def settled(window: Window) -> Window:
    """The same window without the current tile: with tiles of a day, as of last midnight (UTC).

    >>> settled(last(30 * MS_PER_DAY)).label
    '30d_settled'
    """
    return replace(window, label=f"{window.label}_settled", skip=1)


def hop_for(window_ms: int) -> int:
    """The tile of a window: 5 minutes up to 12 hours, 1 hour up to 12 days, 1 day beyond (as chronon)."""
    if window_ms <= 12 * MS_PER_HOUR:
        return 5 * MS_PER_MINUTE
    return MS_PER_HOUR if window_ms <= 12 * MS_PER_DAY else MS_PER_DAY


HOP_CODES = {0: "", 5 * MS_PER_MINUTE: "m", MS_PER_HOUR: "h", MS_PER_DAY: "d"}


def _label(duration_ms: int) -> str:
    for unit, letter in ((MS_PER_DAY, "d"), (MS_PER_HOUR, "h"), (MS_PER_MINUTE, "m")):
        if duration_ms % unit == 0:
            return f"{duration_ms // unit}{letter}"
    raise ValueError(f"{duration_ms} ms is not a whole number of minutes")


@lru_cache(maxsize=256)
def _weights(tiles: int, half_life: int, skip: int) -> NDArray[np.int64]:
    table = np.array([_halved(age, half_life) if half_life else 1 for age in range(tiles)], np.int64)
    table[:skip] = 0
    table.setflags(write=False)
    return table


def _halved(age: int, half_life: int) -> int:
    """floor(2^16 · 2^(-age / half_life)) by integers alone: the largest w with w^half_life ≤ 2^(16 · half_life - age).

    >>> [_halved(age, 2) for age in range(4)]
    [65536, 46340, 32768, 23170]
    """
    exponent = 16 * half_life - age
    if exponent < 0:
        return 0
    low, high = 0, DECAY_UNIT
    while low < high:
        middle = (low + high + 1) // 2
        if middle**half_life <= 1 << exponent:
            low = middle
        else:
            high = middle - 1
    return low
