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
    """`evidence`: how often an item was shown. `observed`: what it has to explain, each for the totals that count alike
    (events with a request, or users once). `base`: of the items that a training has found suspect, by id, a weight from
    0 to `WHOLE` for each of `observed`."""

    evidence: Total
    observed: tuple[Total, ...]
    base: Mapping[str, Sequence[int]] = field(default_factory=dict)


class ItemWeights:
    """Of the rows of `ItemColumns`, which locks it. Clicks that are too many take nothing from users, or fake ones
    could push an item out of the lists."""

    def __init__(self, weighing: Weighing, rules: TrustRules = RULES) -> None:
        self._compared = (weighing.evidence, *weighing.observed)
        self._kinds = [_kind(total) for total in weighing.observed]
        self._rules = rules
        self._base_of, self._base = weighing.base, np.zeros((len(self._kinds), 0), np.int64)
        self._rates: tuple[int | None, ...] = (None,) * len(self._kinds)  # of the whole catalogue
        self._counts = np.zeros((len(self._compared), 0), np.int64)

    def grow(self, more: int) -> None:
        """Make room for more rows."""
        self._counts = np.pad(self._counts, ((0, 0), (0, more)))
        self._base = np.pad(self._base, ((0, 0), (0, more)), constant_values=WHOLE)

    def name(self, row: int, item_id: str) -> None:
        """The row is this item's from now on."""
        self._base[:, row] = self._base_of.get(item_id, WHOLE)

    def weighed(self, rows: NDArray[np.intp], totals: Mapping[Total, Ints]) -> Mapping[Total, Ints]:
        """The totals of some rows, those of the suspects smaller; remembers what they are judged by."""
        totals = self._times(totals, self._base[:, rows])
        self._counts[:, rows] = [totals[t] * _UNIT // t.unit for t in self._compared]
        return self._times(totals, self._weights(self._counts[:, rows]))

    def renew(self) -> NDArray[np.intp]:
        """Compare with the whole catalogue as it is now; gives the rows whose totals may have another weight."""
        before = self._weights(self._counts) < WHOLE
        evidence, *observed = self._counts
        self._rates = tuple(rate_of(each, evidence) for each in observed)
        return np.flatnonzero((before | (self._weights(self._counts) < WHOLE)).any(axis=0))

    def _weights(self, counts: Ints) -> Ints:
        """(len(observed), n) int64 from 0 to `WHOLE`."""
        evidence, *observed = counts
        weights = np.full((len(observed), len(evidence)), WHOLE)
        for each, rate, found in zip(observed, self._rates, weights, strict=True):
            limit = credit(evidence, rate, self._rules, _UNIT)
            over = each > limit
            found[over] = limit[over] * WHOLE // each[over]
        return weights

    def _times(self, totals: Mapping[Total, Ints], weights: Ints) -> Mapping[Total, Ints]:
        if (weights == WHOLE).all():
            return totals
        found = dict(totals)
        for kind, of_kind in zip(self._kinds, weights, strict=True):
            for total in totals:
                if _kind(total) == kind:
                    found[total] = _part(totals[total], of_kind)
        return found


def _kind(total: Total) -> tuple[bool, bool] | None:
    """What counts alike is weighed alike. None: impressions, and what has no evidence, such as dwell and ratings."""
    signal = total.signal
    known = signal.op is Op.ADD and (signal.attributed or signal.once)
    return (signal.attributed, signal.once) if known and EventType.IMPRESSION not in signal.types else None


def _part(amounts: Ints, weights: Ints) -> Ints:
    """amounts · weights / `WHOLE`, rounded down, without leaving int64: amounts are below 2^53."""
    return amounts // WHOLE * weights + amounts % WHOLE * weights // WHOLE
