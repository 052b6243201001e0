"""A day of one scaler on one queue: pods that take time to start, and what that cost."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infra.capacity.autoscale.kubernetes import SYNC_S
from infra.capacity.autoscale.policy import HOUR_S, reversals_per_hour
from infra.capacity.autoscale.queues import Floats, Queue

OBJECTIVE = 0.01  # of a minute's work may be bad
_MINUTE_S = 60
_WARM_S = 120  # without metrics yet, nothing is changed


@dataclass(frozen=True)
class Pods:
    """`running`: those that start, too."""

    second: int
    running: int
    ready: int


Scaler = Callable[[Pods], int]  # → how many pods to run from now on


@dataclass(frozen=True)
class Outcome:
    """missed_minutes: in which more than 1 % of the work was bad. pods: (seconds,) float64, those that run."""

    missed_minutes: int
    bad_share: float
    failed: float
    core_hours: float
    reversals: int
    pods: Floats


def simulate(queue: Queue, scaler: Scaler, first: int, start_s: int) -> Outcome:
    """Play the queue's whole trace. A pod has one core from its creation on, and serves `start_s` later. Of fewer pods,
    the youngest end, and finish what they have. `first`: pods that are ready at the start."""
    seconds = len(queue.work)
    ready_at = [0] * first
    pods, changes = np.zeros(seconds), []
    for second in range(seconds):
        if second >= _WARM_S and second % SYNC_S == 0:
            running = len(ready_at)
            chosen = scaler(Pods(second, running, bisect_right(ready_at, second)))
            ready_at = ready_at[:chosen] + [second + start_s] * (chosen - running)
            if chosen != running:
                changes.append((float(second), chosen - running))
        pods[second] = len(ready_at)
        queue.step(second, max(bisect_right(ready_at, second), 1))
    whole = seconds // _MINUTE_S * _MINUTE_S
    work, bad = (a[:whole].reshape(-1, _MINUTE_S).sum(axis=1) for a in (queue.work, queue.bad))
    return Outcome(
        missed_minutes=int((bad > OBJECTIVE * work).sum()),
        bad_share=float(queue.bad.sum() / queue.work.sum()),
        failed=float(queue.failed.sum()),
        core_hours=float(pods.sum() / HOUR_S),
        reversals=reversals_per_hour(changes),
        pods=pods,
    )
