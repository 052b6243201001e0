"""The two fleets of the simulation, each with its load of one day and everything that may scale it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.capacity.autoscale import scalers
from infra.capacity.autoscale.manifests import api_policy, autoscaler, scaled, worker_policy
from infra.capacity.autoscale.policy import Policy
from infra.capacity.autoscale.queues import Calibration, Events, Requests
from infra.capacity.autoscale.scalers import Need
from infra.capacity.autoscale.simulate import Outcome, Scaler, simulate
from infra.capacity.autoscale.traces import DAY_S, Trace, diurnal, flash
from infra.sizing_table import SizingTable, read_table

_UNEVEN = 0.2  # share of events that a partition has more or fewer than the mean, at most


@dataclass(frozen=True)
class Day:
    """A simulated day. requests, events: per second at the peak without crowds. day_s: a day's length. start_s: from a
    pod's creation until it serves. slower: the real rate of a process over that of the table."""

    seed: int
    crowds: bool
    requests: float = 400.0
    events: float = 80_000.0
    day_s: int = DAY_S
    start_s: int = 20
    slower: float = 1.0
    table: SizingTable = field(default_factory=read_table)

    def trace(self, peak: float, most: float) -> Trace:
        quiet = diurnal(peak, self.table.peak_factor, self.day_s)
        return flash(quiet, most, np.random.default_rng(self.seed)) if self.crowds else quiet


@dataclass(frozen=True)
class Fleet:
    """Pods of one kind under one load. `queue` makes a fresh one with the same load each time."""

    policy: Policy
    spec: Mapping[str, Any]  # of the policy's manifest
    trace: Trace
    start_s: int
    queue: Callable[[], Any]
    before: Callable[[Any], Scaler]
    need: Callable[[Policy, Any], Need]

    def play(self, name: str) -> Outcome:
        """Simulate one of SCALERS."""
        queue = self.queue()
        scaler = SCALERS[name](self, queue)
        load = self.trace.max() if name == "at_peak" else self.trace[0]
        return simulate(queue, scaler, scalers.enough(self.policy, float(load)), self.start_s)


SCALERS: Mapping[str, Callable[[Fleet, Any], Scaler]] = {
    "before": lambda fleet, queue: fleet.before(queue),
    "policy": lambda fleet, queue: scalers.by_policy(fleet.policy, fleet.need(fleet.policy, queue)),
    "manifest": lambda fleet, queue: scalers.by_manifest(fleet.spec, fleet.need(fleet.policy, queue)),
    "at_peak": lambda fleet, queue: scalers.at_peak(fleet.policy, fleet.trace),
    "foresight": lambda fleet, queue: scalers.with_foresight(fleet.policy, fleet.trace, fleet.start_s),
}


def api(day: Day, policy: Policy | None = None) -> Fleet:
    """`policy`: another one than that of the manifests."""
    of = Calibration(day.table.measured.requests_per_s * day.slower)
    policy = policy or api_policy(day.table)
    trace = day.trace(day.requests, policy.cap * policy.rate * day.table.utilisation)
    return Fleet(
        policy,
        autoscaler(scaled(day.table)[0])["spec"],
        trace,
        day.start_s,
        lambda: Requests(trace, of, np.random.default_rng([day.seed, 1])),
        scalers.before_of_requests,
        scalers.need_of_requests,
    )


def workers(day: Day) -> Fleet:
    of = Calibration(day.table.measured.events_per_s * day.slower)
    policy = worker_policy(day.table)
    trace = day.trace(day.events, policy.cap * policy.rate * policy.utilisation)

    def queue() -> Events:
        rng = np.random.default_rng([day.seed, 2])
        shares = rng.uniform(1 - _UNEVEN, 1 + _UNEVEN, policy.partitions)
        return Events(trace, shares / shares.sum(), of, rng)

    return Fleet(
        policy,
        autoscaler(scaled(day.table)[1])["spec"],
        trace,
        day.start_s,
        queue,
        scalers.before_of_events,
        scalers.need_of_events,
    )
