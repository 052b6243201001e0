"""Who decides in the simulation: the policy, Kubernetes with a manifest, and two bounds.

Each knows what a Prometheus would know: metrics are `DELAY_S` old, and rates are of the windows in its queries.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from infra.capacity.autoscale.kubernetes import SYNC_S, Autoscaler, by_average, by_total
from infra.capacity.autoscale.policy import Past, Policy, Samples, decide, needed
from infra.capacity.autoscale.queues import SLOW_S, Events, Queue, Requests
from infra.capacity.autoscale.simulate import Pods, Scaler
from infra.capacity.autoscale.traces import Trace

DELAY_S = 15  # a scrape interval, or the way through an adapter
_WINDOW_S = 30  # of the policy's rates; of the metrics server
_P99_WINDOW_S = 60

# The autoscalers of the deployment files before the policy (commit 04859dd).
BEFORE_API: Mapping[str, Any] = {
    "minReplicas": 2,
    "maxReplicas": 20,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
}
BEFORE_WORKER: Mapping[str, Any] = {"minReplicas": 2, "maxReplicas": 12}
_CPU, _PER_S, _P99_S, _LAG = 0.6, 150.0, 0.04, 5_000.0  # their targets
_BEFORE_WINDOW_S = 60

Need = Callable[[Pods], float]  # pods, with their fraction, that the policy needs


def by_policy(policy: Policy, need: Need) -> Scaler:
    past = Past()

    def scale(pods: Pods) -> int:
        nonlocal past
        past, chosen = decide(policy, past, pods.second, pods.running, need(pods))
        return chosen

    return scale


def by_manifest(spec: Mapping[str, Any], need: Need) -> Scaler:
    """Kubernetes with the policy's manifest: one external metric, what the policy needs."""
    autoscaler = Autoscaler(spec)

    def scale(pods: Pods) -> int:
        wanted = by_total(pods.running, need(pods), 1.0)
        return autoscaler.pods(pods.second, pods.running, [wanted])

    return scale


def need_of_requests(policy: Policy, queue: Requests) -> Need:
    rates = _Rates(queue)

    def need(pods: Pods) -> float:
        end = pods.second - DELAY_S
        late = queue.p99(end - _P99_WINDOW_S, end) / SLOW_S
        return needed(policy, rates.samples(pods.second, policy.trend_s), late=late, ready=pods.ready)

    return need


def need_of_events(policy: Policy, queue: Events) -> Need:
    rates = _Rates(queue)

    def need(pods: Pods) -> float:
        behind_s = queue.worst[pods.second - DELAY_S] / policy.rate
        return needed(policy, rates.samples(pods.second, policy.trend_s), behind_s)

    return need


def before_of_requests(queue: Requests) -> Scaler:
    """Of the API: processor time, requests per second and p99, each per pod."""
    autoscaler, rates = Autoscaler(BEFORE_API), _Rates(queue)

    def scale(pods: Pods) -> int:
        end = pods.second - DELAY_S
        metrics = (
            (float(queue.busy[end - _WINDOW_S : end].mean()), _CPU),
            (rates.at(end, _BEFORE_WINDOW_S) / pods.ready, _PER_S),
            (queue.p99(end - _BEFORE_WINDOW_S, end), _P99_S),
        )
        wanted = [by_average(pods.running, pods.ready, average, target) for average, target in metrics]
        return autoscaler.pods(pods.second, pods.running, wanted)

    return scale


def before_of_events(queue: Events) -> Scaler:
    """Of the workers: the lag of all partitions together."""
    autoscaler = Autoscaler(BEFORE_WORKER)

    def scale(pods: Pods) -> int:
        lag = float(queue.total[pods.second - DELAY_S])
        return autoscaler.pods(pods.second, pods.running, [by_total(pods.running, lag, _LAG)])

    return scale


def at_peak(policy: Policy, trace: Trace) -> Scaler:
    """A fixed number: enough for the highest rate."""
    pods = enough(policy, float(trace.max()))
    return lambda _: pods


def with_foresight(policy: Policy, trace: Trace, start_s: int) -> Scaler:
    """As few as are enough until a pod that is started at the next decision works. It knows the future."""
    ahead = SYNC_S + start_s
    return lambda pods: enough(policy, float(trace[pods.second : pods.second + ahead].max()))


def enough(policy: Policy, rate: float) -> int:
    return min(max(math.ceil(needed(policy, [(0.0, rate)])), policy.least), policy.cap)


class _Rates:
    """Work per second that came, as the rate of a counter."""

    def __init__(self, queue: Queue) -> None:
        self._sum = np.concatenate(([0.0], np.cumsum(queue.work)))

    def at(self, end: int, window_s: int = _WINDOW_S) -> float:
        return float(self._sum[end] - self._sum[end - window_s]) / window_s

    def samples(self, second: int, trend_s: float) -> Samples:
        last = second - DELAY_S
        ends = range(max(last - int(trend_s), _WINDOW_S), last + 1, SYNC_S)
        return [(float(end), self.at(end)) for end in ends]
