"""The policy: known answers, what it keeps for any load, and Kubernetes' algorithm as a second opinion."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.capacity.autoscale.kubernetes import SYNC_S, Autoscaler, by_average, by_total
from infra.capacity.autoscale.manifests import Scaled, autoscaler
from infra.capacity.autoscale.policy import HOUR_S, Past, Policy, decide, forecast, needed, reversals_per_hour

API = Policy(2, 20, rate=64.0, utilisation=0.5)
WORKERS = Policy(1, 12, rate=1_000.0, partitions=12, utilisation=0.5, drain_s=60.0)
NEEDS = st.lists(st.floats(0.0, 30.0), min_size=1, max_size=120)


def followed(policy: Policy, needs: list[float], first: int) -> list[int]:
    """Numbers of processes, a decision every fifteen seconds."""
    past, running, numbers = Past(), first, []
    for n, need in enumerate(needs):
        past, running = decide(policy, past, n * SYNC_S, running, need)
        numbers.append(running)
    return numbers


def test_what_arrives_is_divided_by_what_a_process_is_planned_with() -> None:
    steady = [(float(t), 320.0) for t in range(0, 60, 15)]
    assert needed(API, steady) == pytest.approx(10.0)
    assert needed(API, []) == 0.0


def test_a_trend_is_followed_up_and_not_down() -> None:
    rising = [(0.0, 100.0), (30.0, 130.0), (60.0, 160.0)]
    assert forecast(rising, 60.0) == pytest.approx(220.0)
    assert needed(API, rising) == pytest.approx(220.0 / 32)
    assert needed(API, [(t, 260.0 - rate) for t, rate in rising]) == pytest.approx(100.0 / 32)


def test_late_answers_ask_for_more_than_arrivals_do_but_for_twice_at_most() -> None:
    assert needed(API, [(0.0, 64.0)], late=1.5, ready=4) == 6.0
    assert needed(API, [(0.0, 64.0)], late=25.0, ready=4) == 8.0
    assert needed(API, [(0.0, 64.0)], late=0.9, ready=4) == 2.0


def test_seconds_behind_are_of_every_partition() -> None:
    """A minute's work in the worst of twelve partitions, to be done in a minute: each needs a worker."""
    assert needed(WORKERS, [(0.0, 0.0)], behind_s=60.0) == 12
    assert needed(WORKERS, [(0.0, 0.0)], behind_s=10.0) == 2
    assert needed(WORKERS, [(0.0, 1_000.0)], behind_s=10.0) == 4


@pytest.mark.parametrize(("rate", "workers"), [(2_000, 4), (2_200, 4), (2_300, 6), (3_300, 6), (3_400, 12)])
def test_more_workers_are_as_many_as_leave_fewer_partitions_to_each(rate: float, workers: int) -> None:
    assert needed(WORKERS, [(0.0, float(rate))]) == workers


def test_up_at_once_and_down_after_the_window() -> None:
    policy = replace(API, down_after_s=60.0)
    assert followed(policy, [4.0, 9.5, 3.0, 5.0, 3.0, 3.0, 3.0, 3.0], 4) == [4, 10, 10, 10, 10, 5, 5, 3]


def test_small_differences_change_nothing() -> None:
    assert followed(API, [10.9, 9.1], 10) == [10, 10]
    assert followed(API, [11.1], 10) == [12]


def test_the_cap_is_the_number_of_partitions() -> None:
    assert followed(replace(WORKERS, most=40), [30.0], 3) == [12]
    assert followed(replace(WORKERS, most=5), [12.0], 3) == [5]


def test_a_way_down_waits_for_the_hours_reversals() -> None:
    policy = replace(API, down_after_s=60.0)
    hour = round(HOUR_S / SYNC_S)
    needs = [8.0] + 10 * [3.0] + 5 * [8.0] + hour * [3.0]
    numbers = followed(policy, needs, 4)
    changes = [(n, b) for n, (a, b) in enumerate(itertools.pairwise(numbers), 1) if a != b]
    assert changes == [(4, 3), (11, 8), (11 + hour, 3)]  # the second way down an hour after the way up


@given(NEEDS, st.integers(2, 20), st.integers(15, 600))
def test_for_any_load(needs: list[float], first: int, window_s: int) -> None:
    """Never fewer than are needed or more than the cap, and at most two reversals in any hour."""
    policy = replace(API, down_after_s=float(window_s))
    numbers = followed(policy, needs, first)
    before = [first, *numbers]
    for need, running, number in zip(needs, before, numbers, strict=False):
        assert policy.least <= number <= policy.cap
        assert number >= min(need / (1 + policy.tolerance), policy.cap)
        assert number <= max(running, policy.least, need + 1)
    changes = [(15.0 * n, b - a) for n, (a, b) in enumerate(itertools.pairwise(before)) if a != b]
    assert reversals_per_hour(changes) <= policy.reversals


@given(NEEDS, st.integers(2, 20), st.integers(15, 600))
def test_kubernetes_follows_the_manifest_as_the_policy_decides(
    needs: list[float], first: int, window_s: int
) -> None:
    """But for the limit of reversals, which a manifest cannot say."""
    policy = replace(API, down_after_s=float(window_s), reversals=1_000)
    manifest = autoscaler(Scaled("api", policy, "", ""))["spec"]
    kubernetes, running, numbers = Autoscaler(manifest), first, []
    for n, need in enumerate(needs):
        running = kubernetes.pods(n * SYNC_S, running, [by_total(running, need, 1.0)])
        numbers.append(running)
    assert numbers == followed(policy, needs, first)


def test_kubernetes_by_hand() -> None:
    assert by_average(running=4, ready=4, average=0.9, target=0.6) == 6
    assert by_average(running=4, ready=4, average=0.65, target=0.6) == 4  # within the tolerance
    assert (
        by_average(running=6, ready=4, average=0.9, target=0.6) == 6
    )  # those that start will take their share
    assert (
        by_total(running=22, total=24.0, target=1.0) == 22
    )  # KEDA's issue 4791: a capped metric ends short of the cap
    defaults = Autoscaler({"minReplicas": 2, "maxReplicas": 50})
    assert [defaults.pods(15.0 * n, running, [50]) for n, running in enumerate((2, 6, 12))] == [6, 12, 24]
    assert defaults.pods(60.0, 24, [3]) == 24  # for five minutes, fifty were wanted
    assert defaults.pods(400.0, 24, [3]) == 3
