"""The difference of two arms, with its uncertainty. The unit is the user, since one user's requests are dependent.

A metric is a ratio of two sums over users (CTR: clicks / impressions; a mean: sum / 1); its variance follows from the
delta method (Deng et al. 2018). CUPED (Deng et al. 2013) removes what the pre-period predicts. `always_valid_p` is
the mixture sequential probability ratio test (Johari et al. 2017), valid at any number of looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ArmData:
    """One arm's users. `numerator`, `denominator` (n,): sums per user; `before` (n,): a pre-period covariate."""

    numerator: Floats
    denominator: Floats
    before: Floats | None = None

    def __post_init__(self) -> None:
        if len(self.numerator) < 2 or self.denominator.sum() <= 0:
            raise ValueError("an arm needs at least two users and a positive denominator")

    @property
    def ratio(self) -> float:
        return float(self.numerator.sum() / self.denominator.sum())


@dataclass(frozen=True, slots=True)
class Estimate:
    """One arm's ratio with its confidence interval."""

    value: float
    low: float
    high: float


def estimate(arm: ArmData, confidence: float = 0.95) -> Estimate:
    """The arm's ratio with its interval by the delta method over users: a normal approximation, rough below 30
    users."""
    values = _linearise(arm)
    half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(values.var(ddof=1) / len(values))
    return Estimate(arm.ratio, float(arm.ratio - half), float(arm.ratio + half))


@dataclass(frozen=True, slots=True)
class Lift:
    """Treatment against control. `relative` is (t - c) / c; the interval is its 95 % one by default."""

    control: float
    treatment: float
    relative: float
    low: float
    high: float
    p: float  # two-sided, valid for a single look
    always_valid_p: float  # valid for any number of looks
    cohens_d: float  # of the users' linearised values
    detectable: float  # smallest relative lift found with 80 % power at this size
    variance_kept: float  # share left by CUPED; 1.0 without a pre-period


def compare(control: ArmData, treatment: ArmData, confidence: float = 0.95) -> Lift:
    """The lift of a ratio metric.

    The users' values are linearised around their arm's ratio, (num - ratio · den) / mean(den), so that ratio metrics
    are handled as means (delta method); CUPED subtracts theta · (before - pooled mean), theta from both arms.
    """
    values = [_linearise(control), _linearise(treatment)]
    plain = [v.var(ddof=1) for v in values]
    if control.before is not None and treatment.before is not None:
        values = _cuped(values, [control.before, treatment.before])
    means = np.array([v.mean() for v in values])
    variances = np.array([v.var(ddof=1) / len(v) for v in values])
    base = means[0]

    relative = (means[1] - base) / base
    # Variance of a quotient of independent means, first order (Fieller's approximation).
    error = np.sqrt(variances[1] / base**2 + variances[0] * means[1] ** 2 / base**4)
    z = stats.norm.ppf(0.5 + confidence / 2)
    difference_error = np.sqrt(variances.sum())
    statistic = (means[1] - base) / difference_error if difference_error else 0.0
    pooled = np.sqrt(np.mean([v.var(ddof=1) for v in values]))
    return Lift(
        control=control.ratio,
        treatment=treatment.ratio,
        relative=float(relative),
        low=float(relative - z * error),
        high=float(relative + z * error),
        p=float(2 * stats.norm.sf(abs(statistic))),
        always_valid_p=always_valid_p(
            float(means[1] - base), float(variances.sum()), float(0.05 * abs(base))
        ),
        cohens_d=float((means[1] - base) / pooled) if pooled else 0.0,
        detectable=float((z + stats.norm.ppf(0.8)) * difference_error / abs(base)),
        variance_kept=float(sum(v.var(ddof=1) for v in values) / sum(plain)) if sum(plain) else 1.0,
    )


def always_valid_p(difference: float, variance: float, scale: float) -> float:
    """mSPRT with a N(0, scale²) mixture over the true difference; one value of the sequence.

    The p-value of a sequence of looks is the running minimum of these. `variance` is that of `difference` at
    this look. The false-positive rate over any number of looks is at most the level.
    """
    if variance <= 0:
        return 1.0
    total = variance + scale**2
    log_ratio = 0.5 * np.log(variance / total) + difference**2 * scale**2 / (2 * variance * total)
    return float(min(1.0, np.exp(-log_ratio)))


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Chi-squared test of the planned split. Below 0.001 no metric of the experiment can be trusted."""
    expected = np.asarray(shares, dtype=np.float64) / np.sum(shares) * np.sum(counts)
    return float(stats.chisquare(counts, expected).pvalue)


def _linearise(arm: ArmData) -> Floats:
    residual = (arm.numerator - arm.ratio * arm.denominator) / arm.denominator.mean()
    return np.asarray(arm.ratio + residual)


def _cuped(values: Sequence[Floats], before: Sequence[Floats]) -> list[Floats]:
    centre = np.concatenate(before).mean()
    pre = np.concatenate([b - b.mean() for b in before])
    post = np.concatenate([v - v.mean() for v in values])
    spread = float(pre @ pre)
    theta = float(pre @ post) / spread if spread else 0.0
    return [v - theta * (b - centre) for v, b in zip(values, before, strict=True)]
