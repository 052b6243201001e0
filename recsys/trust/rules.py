"""How much of an item's engagement counts: as much as its exposure explains.

One rule for the stream and for training (ADR 27). Clients that report events can click on anything, but not decide what
is shown; so what was shown is the evidence that clicks are weighed by. Integers only, of event time only: the same
counts give the same answer, whatever computes them and in whatever order the events came.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NO_LIMIT = int(np.iinfo(np.int64).max)
WHOLE = 1 << 10  # the weight of an item whose engagement all counts
_POINT = 16  # binary digits of the log's own rate behind the point


@dataclass(frozen=True, slots=True)
class TrustRules:
    """An item may be `times` as engaging as the whole log, and `allowance` users more. A user may engage `burst` times
    at once, and `per_minute` times per minute for ever."""

    times: int = 4
    allowance: int = 3
    burst: int = 300
    per_minute: int = 60


RULES = TrustRules()


def rate_of(observed: Ints, evidence: Ints) -> int | None:
    """What is observed per evidence in the whole log, with `_POINT` binary digits behind the point.

    Of each item no more counts than its evidence, so that those who push an item hardly raise what all are compared
    with. None where more is observed than there is evidence for, as in a log without impressions: it says nothing then.

    Args:
        observed: (n,) int64 from 0 to 2^42, such as users who engaged with each item; of all items.
        evidence: (n,) int64 from 0 to 2^42, such as how often each was shown.
    """
    total = int(evidence.sum())
    if int(observed.sum()) > total:
        return None
    return (int(np.minimum(observed, evidence).sum()) << _POINT) // max(total, 1)


def credit(evidence: Ints, rate: int | None, rules: TrustRules = RULES, unit: int = 1) -> Ints:
    """What may be observed of each item, by its evidence: (n,) int64.

    Args:
        evidence: (n,) int64 from 0 to 2^42.
        rate: `rate_of` the log. None: `NO_LIMIT`.
        unit: of evidence and credit, per impression and user.

    >>> shown, clicked = np.array([0, 100, 900]), np.array([1, 9, 90])
    >>> credit(shown, rate_of(clicked, shown), TrustRules(times=2, allowance=3)).tolist()
    [3, 22, 181]
    """
    if rate is None:
        return np.full(len(evidence), NO_LIMIT)
    return rules.allowance * unit + (rules.times * rate * evidence >> _POINT)
