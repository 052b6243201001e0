"""How many processes a load needs, and when their number changes: pure functions of what was measured.

`needed` is demand over supply: the work that arrives now or, by its trend, once a new process would be ready; and what
is left undone. `decide` makes a number of processes out of it: up at once; down only to what was enough for the whole
of the last minutes; and only where a way back up would stay within the reversals that an hour may have.

Without the last rule it is the algorithm of Kubernetes' HorizontalPodAutoscaler for one metric whose target is one per
pod, so `manifests` can write the same policy for a cluster.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOUR_S = 3_600.0

Samples = Sequence[tuple[float, float]]  # seconds, work per second; oldest first


@dataclass(frozen=True)
class Policy:
    """Processes that are alike.

    rate: work that one does per second, at most. utilisation: share of it that is planned with.
    partitions: those of a log that the processes share, which more processes than partitions cannot; 0: none.
    drain_s: seconds in which what was left undone is to be done. horizon_s: how far ahead the trend of the last
    `trend_s` is followed: until a process that is started now works.
    tolerance: share by which supply and demand may differ before anything changes.
    down_after_s: how long fewer must have been enough. reversals: of direction, within any hour.
    """

    least: int
    most: int
    rate: float
    partitions: int = 0
    utilisation: float = 0.5
    drain_s: float = 60.0
    horizon_s: float = 60.0
    trend_s: float = 60.0
    tolerance: float = 0.1
    down_after_s: float = 600.0
    reversals: int = 2

    @property
    def cap(self) -> int:
        return min(self.most, self.partitions) if self.partitions else self.most


@dataclass(frozen=True)
class Past:
    """What a decision must know of the earlier ones. `wanted`: second and number; `turned`: seconds of reversals."""

    wanted: tuple[tuple[float, int], ...] = ()
    turned: tuple[float, ...] = ()
    direction: int = 0  # of the last change


def forecast(samples: Samples, ahead_s: float) -> float:
    """The least-squares line through the samples, `ahead_s` after the last one (PromQL: `predict_linear`).

    >>> forecast([(0.0, 10.0), (10.0, 20.0), (20.0, 30.0)], 10.0)
    40.0
    """
    times, rates = (np.array(column) for column in zip(*samples, strict=True))
    apart = times - times.mean()
    spread = float(apart @ apart)
    slope = float(apart @ rates) / spread if spread else 0.0
    return float(rates.mean()) + slope * (float(times[-1]) + ahead_s - float(times.mean()))


def needed(
    policy: Policy, samples: Samples, behind_s: float = 0.0, late: float = 0.0, ready: int = 0
) -> float:
    """Processes, with their fraction, that the load needs: for what arrives, now or by its trend, and for what is late.

    `behind_s`: seconds that a process would take for the partition that is furthest behind if it had no other. All
    partitions are planned to be as late, since a partition cannot be split.
    `late`: p99 of the answers over its objective. Above 1, that many times the `ready` processes are needed, at most
    twice: also where one does less than `rate`.

    With partitions the answer is rounded up to where a process gets fewer of them: of twelve, seven workers leave two
    to one of them, as six do.
    """
    arriving = max(samples[-1][1], forecast(samples, policy.horizon_s)) if samples else 0.0
    need = arriving / (policy.rate * policy.utilisation) + policy.partitions * behind_s / policy.drain_s
    if late > 1:
        need = max(need, ready * min(late, 2.0))
    if policy.partitions and need > 0:
        each = max(1, math.floor(policy.partitions * (1 + policy.tolerance) / need))
        need = math.ceil(policy.partitions / each)
    return need


def decide(policy: Policy, past: Past, at_s: float, running: int, need: float) -> tuple[Past, int]:
    """The number of processes from now on, and what the next decision must know. `running`: also those that start."""
    close = running and abs(need / running - 1) <= policy.tolerance
    wanted = min(max(running if close else math.ceil(need), policy.least), policy.cap)
    recent = (*(w for w in past.wanted if at_s - w[0] < policy.down_after_s), (at_s, wanted))
    turned = tuple(t for t in past.turned if at_s - t < HOUR_S)
    chosen = max(wanted, min(running, max(number for _, number in recent)))
    direction = (chosen > running) - (chosen < running)
    turns = direction * past.direction < 0
    if turns and direction < 0 and len(turned) > policy.reversals - 2:  # the way back up is one, too
        chosen, direction, turns = running, 0, False
    return Past(recent, turned + (at_s,) * turns, direction or past.direction), min(chosen, policy.cap)


def reversals_per_hour(changes: Sequence[tuple[float, int]]) -> int:
    """Most changes of direction in any hour. `changes`: second and signed change of the number, in order.

    >>> reversals_per_hour([(0, 1), (10, -1), (20, -1), (30, 1)])
    2
    """
    turned = [at for (_, before), (at, now) in itertools.pairwise(changes) if before * now < 0]
    return max((sum(0 <= at - first < HOUR_S for at in turned) for first in turned), default=0)
