"""The statistics against planted truths: lifts are covered, A/A tests stay quiet, peeking is harmless."""

import numpy as np
import pytest
from scipy import stats

from recsys.experiments.analysis import ArmData, always_valid_p, compare, sample_ratio_p

USERS = 2_000


def arm(rng: np.random.Generator, lift: float = 0.0, users: int = USERS) -> ArmData:
    """CTR data: users differ in taste and in how much they see; the pre-period knows the taste."""
    taste = rng.beta(2, 18, users)
    before = rng.binomial(40, taste) / 40
    shown = 1 + rng.poisson(20, users)
    return ArmData(rng.binomial(shown, taste * (1 + lift)).astype(float), shown.astype(float), before)


def test_it_equals_welch_when_the_denominator_is_one() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 500), rng.normal(1.1, 2, 700)
    lift = compare(ArmData(a, np.ones(500)), ArmData(b, np.ones(700)))
    assert lift.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=0.02)
    assert lift.relative == pytest.approx(b.mean() / a.mean() - 1)
    assert lift.variance_kept == 1.0


def test_the_interval_covers_a_planted_lift() -> None:
    rng = np.random.default_rng(2)
    lifts = [compare(arm(rng), arm(rng, lift=0.1)) for _ in range(200)]
    covered = sum(x.low <= 0.1 <= x.high for x in lifts)
    assert 181 <= covered <= 198  # 95 % of 200, four standard errors
    assert np.mean([x.relative for x in lifts]) == pytest.approx(0.1, abs=0.01)


@pytest.mark.slow
def test_a_against_a_is_significant_in_five_percent() -> None:
    rng = np.random.default_rng(11)
    false_positives = np.mean([compare(arm(rng), arm(rng)).p < 0.05 for _ in range(2_000)])
    assert 0.03 <= false_positives <= 0.07


def test_cuped_needs_fewer_users_and_stays_unbiased() -> None:
    rng = np.random.default_rng(4)
    control, treatment = arm(rng, users=50_000), arm(rng, lift=0.05, users=50_000)
    without = [ArmData(x.numerator, x.denominator) for x in (control, treatment)]
    plain = compare(without[0], without[1])
    adjusted = compare(control, treatment)
    assert adjusted.variance_kept < 0.8
    assert adjusted.detectable < plain.detectable
    assert adjusted.low < 0.05 < adjusted.high


def test_the_detectable_lift_is_detected_four_times_out_of_five() -> None:
    rng = np.random.default_rng(5)
    size = compare(arm(rng), arm(rng)).detectable
    found = np.mean([compare(arm(rng), arm(rng, lift=size)).p < 0.05 for _ in range(300)])
    assert found == pytest.approx(0.8, abs=0.1)


def test_peeking_at_the_sequential_p_is_harmless_and_at_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(6)
    looks = np.arange(100, 4_001, 100)
    wrong = {"plain": 0, "sequential": 0}
    for _ in range(400):
        difference = rng.normal(0, 1, 4_000) - rng.normal(0, 1, 4_000)
        mean, variance = np.cumsum(difference)[looks - 1] / looks, 2 / looks
        wrong["plain"] += bool((2 * stats.norm.sf(np.abs(mean) / np.sqrt(variance)) < 0.05).any())
        wrong["sequential"] += any(
            always_valid_p(m, v, 0.1) < 0.05 for m, v in zip(mean, variance, strict=True)
        )
    assert wrong["sequential"] / 400 <= 0.07
    assert wrong["plain"] / 400 > 0.15


def test_the_sequential_p_finds_a_real_difference() -> None:
    assert always_valid_p(difference=0.2, variance=0.001, scale=0.1) < 0.001
    assert always_valid_p(difference=0.0, variance=0.001, scale=0.1) == 1.0


def test_a_wrong_split_is_noticed() -> None:
    assert sample_ratio_p([10_000, 10_050], [1, 1]) > 0.05
    assert sample_ratio_p([10_000, 10_600], [1, 1]) < 0.001
    assert sample_ratio_p([7_500, 2_500], [3, 1]) == pytest.approx(1.0)


def test_an_empty_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="positive denominator"):
        ArmData(np.zeros(3), np.zeros(3))
