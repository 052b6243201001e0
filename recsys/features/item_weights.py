"""The stream's side of trust: item totals count as far as the item's impressions explain them (ADR 27).

It reads what the online store counts anyway, so no state is added, nothing is thrown away, and what stream and batch
count stays equal. An item that earns its impressions later gets its whole counts back by itself. What the last training
knows of an item's clicks, that many follow no impression, is its base weight until the next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import Op
from recsys.contracts.types import EventType
from recsys.features.spec import Total
from recsys.trust.rules import RULES, WHOLE, Ints, TrustRules, credit, rate_of

_UNIT = 64  # decayed counts have fractions: all are compared in 64ths


@dataclass(frozen=True)
class Weighing:
    """`evidence`: how often an item was shown; `narrowed`: of that, what is none, since the request had narrowed the
    list. `observed`: what it has to explain, each for the totals that count alike (events with a request, or users
    once). `base`: of the items that a training has found suspect, by id, a weight from 0 to `WHOLE` for each of
    `observed`."""

    evidence: Total
    narrowed: Total
    observed: tuple[Total, ...]
    base: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[Total, ...]:
        return (self.evidence, self.narrowed, *self.observed)


class ItemWeights:
    """Of the rows of `ItemColumns`, which locks it. Clicks that are too many take nothing from users, or fake ones
    could push an item out of the lists."""

    def __init__(self, weighing: Weighing, rules: TrustRules = RULES) -> None:
        self._compared = weighing.compared
        self._kinds = [_kind(total) for total in weighing.observed]
        self._rules = rules
        self._base_of, self._base = weighing.base, np.zeros((len(self._kinds), 0), np.int64)
        self._rates: tuple[int | None, ...] = (None,) * len(self._kinds)  # of the whole catalogue
        self._counts = np.zeros((1 + len(self._kinds), 0), np.int64)  # evidence, then what is observed

    def grow(self, more: int) -> None:
        """Make room for more rows."""
        self._counts = np.pad(self._counts, ((0, 0), (0, more)))
        self._base = np.pad(self._base, ((0, 0), (0, more)), constant_values=WHOLE)

    def name(self, row: int, item_id: str) -> None:
        """The row is this item's from now on."""
        self._base[:, row] = self._base_of.get(item_id, WHOLE)

    def weighed(self, rows: NDArray[np.intp], totals: Mapping[Total, Ints]) -> Mapping[Total, Ints]:
        """The totals of some rows, those of the suspects smaller; remembers what they are judged by."""
        shown, narrowed, *engaged = (totals[t] * _UNIT // t.unit for t in self._compared)
        counts = np.array([np.maximum(shown - narrowed, 0), *engaged])
        self._counts[:, rows] = counts
        observed, allowed = counts[1:], self._allowed(counts, self._base[:, rows])
        if (allowed == observed).all():
            return totals
        found = dict(totals)
        for kind, seen, left in zip(self._kinds, observed, allowed, strict=True):
            for total in totals:
                if _kind(total) == kind:
                    found[total] = _cut(totals[total], total.unit, seen, left)
        return found

    def copies(self) -> tuple[Ints, Ints]:
        """What `renew` takes, for a caller that must not hold a lock meanwhile."""
        return self._counts.copy(), self._base.copy()

    def renew(self, counts: Ints, base: Ints) -> NDArray[np.intp]:
        """Compare with the whole catalogue as it was; gives the rows of which another part may count now."""
        before = self._allowed(counts, base) < counts[1:]
        self._rates = tuple(_rate(each, counts[0]) for each in counts[1:])
        return np.flatnonzero((before | (self._allowed(counts, base) < counts[1:])).any(axis=0))

    def _allowed(self, counts: Ints, base: Ints) -> Ints:
        """(len(observed), n) int64: how much of what is observed counts."""
        evidence, *observed = counts
        limits = [credit(evidence, rate, self._rules, _UNIT) for rate in self._rates]
        trusted = np.array([_part(*each) for each in zip(observed, base, strict=True)])
        return np.asarray(np.minimum(trusted, limits), np.int64)


def _rate(observed: Ints, evidence: Ints) -> int | None:
    """Of the whole catalogue. None where most items have more than evidence, as after an import: it says nothing then.
    Items decide, not their sums: else a flood of clicks on one of them would end the comparison."""
    if 2 * np.count_nonzero(observed > evidence) > np.count_nonzero(observed):
        return None
    return rate_of(np.minimum(observed, evidence), evidence)


def _cut(amounts: Ints, unit: int, seen: Ints, left: Ints) -> Ints:
    """What remains of totals of any window: they lose no more than the excess, nor a larger share than what was
    compared does. So fake clicks of a day take nothing from the years before."""
    share = np.where(left == seen, WHOLE, left * WHOLE // np.maximum(seen, 1))
    least: Ints = np.maximum(_part(amounts, share), amounts + (left - seen) * unit // _UNIT)
    return least


def _kind(total: Total) -> tuple[bool, bool] | None:
    """What counts alike is weighed alike. None: impressions, and what has no evidence, such as dwell and ratings."""
    signal = total.signal
    known = signal.op is Op.ADD and (signal.attributed or signal.once)
    return (signal.attributed, signal.once) if known and EventType.IMPRESSION not in signal.types else None


def _part(amounts: Ints, weights: Ints) -> Ints:
    """amounts · weights / `WHOLE`, rounded down, without leaving int64: amounts are below 2^53."""
    return amounts // WHOLE * weights + amounts % WHOLE * weights // WHOLE
