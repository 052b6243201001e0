"""What pods do with a load, second by second: a fluid queue of requests, and a log of partitions.

Both are calibrated by what the benchmarks measured on real processes, and both keep what a metrics server would have
seen: a scaler knows no more than a real one.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.capacity.autoscale.traces import Trace

Floats = NDArray[np.float64]

SLOW_S = 0.08  # 99 % of recommendations within it (infra/deploy/prometheus/rules.yml)
STALE_S = 1.0  # 99 % of events within it
BUCKETS = np.array(
    [0, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, SLOW_S, 0.15, 0.5, 2.0]
)  # of the API's histogram
_MOST_BUSY = 0.9  # of a steady state; above it, what waits says how long


@dataclass(frozen=True)
class Calibration:
    """Of one process. rate: work per second. p99_s: of requests at half of that (`half_p99_ms` of `recsys bench
    serve`). in_flight: requests inside a process; more are refused (`RECSYS_MAX_IN_FLIGHT`). claim_s: a partition that
    changes hands is not read for that long (ADR 7: a heartbeat and a claim)."""

    rate: float
    p99_s: float = 0.048
    in_flight: int = 64
    claim_s: int = 2


class Queue(Protocol):
    """Arrays (seconds,) float64: `work` that came; `bad`, of it, too late or refused; `failed`, of it, refused."""

    work: Floats
    bad: Floats
    failed: Floats

    def step(self, second: int, ready: int) -> None:
        """Simulate one second with that many pods."""


class Requests:
    """Requests, spread evenly over the pods that are ready.

    The time of one is the wait for those before it, plus a random time with an exponential tail whose 99th percentile
    is p99_s · ½ / (1 - utilisation), which was measured at one half.
    """

    def __init__(self, trace: Trace, of: Calibration, rng: np.random.Generator) -> None:
        self.of = of
        self.work = rng.poisson(trace).astype(np.float64)
        self.bad, self.failed, self.served, self.busy, self.wait, self.idle = np.zeros((6, len(trace)))
        self._expected = trace
        self._waiting = 0.0

    def step(self, second: int, ready: int) -> None:
        capacity = ready * self.of.rate
        present = self._waiting + float(self.work[second])
        served = min(present, capacity)
        waiting = min(present - served, self.of.in_flight * ready)
        self.served[second] = served
        self.failed[second] = present - served - waiting
        self.busy[second] = served / capacity
        self.wait[second] = (self._waiting + waiting) / 2 / capacity
        self.idle[second] = 1 - min(self._expected[second] / capacity, _MOST_BUSY)
        left = max(SLOW_S - self.wait[second], 0.0)
        self.bad[second] = self.failed[second] + served * 0.01 ** (
            left * self.idle[second] / (self.of.p99_s / 2)
        )
        self._waiting = waiting

    def p99(self, first: int, end: int) -> float:
        """Seconds, of the requests of these seconds, as PromQL reads it from the histogram's buckets."""
        left = np.maximum(BUCKETS - self.wait[first:end, None], 0.0)
        slower = 0.01 ** (left * self.idle[first:end, None] / (self.of.p99_s / 2))
        within = self.served[first:end] @ (1 - slower)
        rank = 0.99 * self.served[first:end].sum()
        return float(np.interp(rank, within, BUCKETS))  # beyond the last bucket: its bound


class Events:
    """Events in partitions, which the workers share. One that waits for longer than `STALE_S` is bad; none is lost."""

    def __init__(self, trace: Trace, shares: Floats, of: Calibration, rng: np.random.Generator) -> None:
        """`shares`: of the events, by partition; they add up to 1."""
        self.of = of
        self._arrivals = rng.poisson(trace[:, None] * shares).astype(np.float64)
        self.work = self._arrivals.sum(axis=1)
        self.bad, self.failed, self.total, self.worst = np.zeros((4, len(trace)))
        self._lag = np.zeros(len(shares))
        self._workers = 1
        self._owner = np.zeros(len(shares), np.int64)
        self._claimed = np.zeros(len(shares))  # second from which each is read

    def step(self, second: int, ready: int) -> None:
        if ready != self._workers:
            owner = np.arange(len(self._lag)) % ready
            self._claimed[owner != self._owner] = second + self.of.claim_s
            self._workers, self._owner = ready, owner
        arrived = self._arrivals[second]
        self._lag += arrived
        readable = self._lag * (self._claimed <= second)
        present = np.bincount(self._owner, readable, ready)
        if present.max() <= self.of.rate:
            self._lag -= readable
        else:
            self._lag -= readable * np.minimum(1.0, self.of.rate / np.maximum(present, 1.0))[self._owner]
        self.total[second], self.worst[second] = self._lag.sum(), self._lag.max()
        if self.total[second]:
            left_s = np.bincount(self._owner, self._lag, ready) / self.of.rate
            self.bad[second] = arrived[left_s[self._owner] > STALE_S].sum()
