"""The evidence of a canary: harm is found, chance is not, at any number of looks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.experiments.guardrails import (
    Requests,
    excess_p,
    request_guardrails,
    shadow_problems,
    user_guardrails,
)
from recsys.experiments.outcomes import SUMS, Outcomes
from recsys.experiments.release import CANARY, CONTROL


def outcomes(ctr: float = 0.1, length: int = 10, items: int = 1_000, seed: int = 0) -> Outcomes:
    """400 users of the canary with these habits, 4,000 of the control with the default ones."""
    rng = np.random.default_rng(seed)
    arm = np.repeat([0, 1], [400, 4_000])
    lists = 1 + rng.poisson(2, len(arm))
    impressions = lists * np.where(arm == 0, length, 10)
    sums = {name: np.zeros(len(arm)) for name in SUMS} | {
        "users": np.ones(len(arm)),
        "lists": lists.astype(float),
        "impressions": impressions.astype(float),
        "clicks": rng.binomial(impressions, np.where(arm == 0, ctr, 0.1)).astype(float),
    }
    sums["purchases"] = rng.binomial(sums["clicks"].astype(int), 0.2).astype(float)
    user = np.repeat(np.arange(len(arm)), impressions)
    shown = rng.integers(0, np.where(arm[user] == 0, items, 1_000))
    empty = {name: np.zeros(len(arm)) for name in SUMS}
    return Outcomes((CANARY, CONTROL), (0.1, 0.9), arm, sums, empty, 0, user, shown, "2026-01-01")


def seen(clicks: NDArray[np.int64], purchases: NDArray[np.int64], canary: int) -> Outcomes:
    """Of the first `canary` users and of the last 5,000, who are the control. Their lists are alike."""
    users = np.r_[:canary, len(clicks) - 5_000 : len(clicks)]
    arm = (users >= len(clicks) - 5_000).astype(int)
    none = np.zeros(len(users))
    sums = dict.fromkeys(SUMS, none) | {
        "lists": none + 1,
        "impressions": none + 10,
        "clicks": clicks[users].astype(float),
        "purchases": purchases[users].astype(float),
    }
    shown_user, shown_item = np.arange(len(users)), np.zeros(len(users), int)
    before = dict.fromkeys(SUMS, none)
    return Outcomes((CANARY, CONTROL), (0.01, 0.99), arm, sums, before, 0, shown_user, shown_item, "")


def test_equal_arms_raise_no_alarm() -> None:
    found = [user_guardrails(outcomes(seed=seed)) for seed in range(20)]
    assert set(found[0]) == {"ctr", "cvr", "list_length", "head_share"}
    assert min(p for each in found for p in each.values()) > 0.0028


@pytest.mark.parametrize(
    ("guardrail", "harm"),
    [("ctr", {"ctr": 0.06}), ("list_length", {"length": 8}), ("head_share", {"items": 20})],
)
def test_each_guardrail_finds_its_harm_and_improvements_are_none(
    guardrail: str, harm: dict[str, float]
) -> None:
    assert user_guardrails(outcomes(**harm))[guardrail] < 1e-3  # type: ignore[arg-type]
    assert user_guardrails(outcomes(ctr=0.15, length=12, items=2_000))[guardrail] > 0.1


def test_one_arm_alone_says_nothing() -> None:
    found = outcomes()
    found.arms = (CONTROL,)
    assert user_guardrails(found) == {}


def test_looking_at_few_users_with_rare_purchases_keeps_the_level() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(15):
        clicks = rng.poisson(1, 7_000)
        acts = clicks, rng.binomial(clicks, 0.03)
        found = [user_guardrails(seen(*acts, n)) for n in [*range(30, 130, 5), *range(130, 2_000, 300)]]
        alarms += min(p for each in found for p in each.values()) <= 0.0028
        assert "cvr" not in found[0]
        assert "cvr" in found[-1]
    assert alarms == 0


def test_looking_after_each_request_keeps_the_level() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        happened = np.cumsum(rng.random(1_000) < 0.02)
        alarms += any(excess_p(int(happened[n]), n + 1, 0.02) <= 0.05 for n in range(0, 1_000, 10))
    assert alarms <= 15 + 3 * 15**0.5
    assert excess_p(60, 1_000, 0.02) < 1e-6


@pytest.mark.parametrize(
    ("successes", "n", "share"),
    [(0, 75_000, 0.01), (0, 40_000, 0.02), (2_500, 250_000, 0.02), (0, 10**9, 0.02)],
)
def test_fewer_than_allowed_are_no_harm_however_many_requests_there_are(
    successes: int, n: int, share: float
) -> None:
    assert excess_p(successes, n, share) == 1.0


def test_slow_and_degraded_answers_are_found() -> None:
    control = Requests(10_000, 20, {0.02: 9_000, 0.05: 9_920, 0.1: 10_000})
    like = Requests(100, 0, {0.02: 90, 0.05: 99, 0.1: 100})
    assert request_guardrails(control, like) == {"degraded": 1.0, "slow": 1.0}
    slow = Requests(100, 0, {0.02: 10, 0.05: 60, 0.1: 100})
    assert request_guardrails(control, slow)["slow"] < 1e-6
    assert request_guardrails(control, Requests(100, 100, like.seconds))["degraded"] < 1e-6
    assert request_guardrails(control, Requests(0, 0, {})) == {}


def test_the_shadow_speaks_against_slow_failing_and_narrow_bundles() -> None:
    assert shadow_problems(500, 0, 10.0, 12.0, 900, 800) == ()
    found = shadow_problems(500, 50, 10.0, 30.0, 900, 100)
    assert [text.split()[1] for text in found] == ["of", "ms", "distinct"]
