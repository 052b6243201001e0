"""Compare two arms in every metric, and check whether the comparison can be trusted.

`lifts`: ratio metrics over users, with CUPED. `catalogue_lifts`: coverage and evenness, which belong to a whole arm,
by bootstrap over users. `false_positive_rate`: the same comparison of random halves of the users.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recsys.contracts.errors import InvalidConfig
from recsys.experiments.analysis import ArmData, Estimate, Lift, compare, estimate, sample_ratio_p
from recsys.experiments.outcomes import METRICS, Metric, Outcomes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 200
LEVEL = 0.05
WRONG_SPLIT = 0.001  # sample-ratio p below which no metric of the experiment can be trusted


@dataclass(frozen=True, slots=True)
class CatalogueLift:
    """The lift of a metric of the whole arm, with its bootstrap interval."""

    control: float
    treatment: float
    relative: float
    low: float
    high: float


def lifts(outcomes: Outcomes, control: str, treatment: str) -> dict[str, Lift]:
    """Metric → lift, where both arms have a denominator."""
    masks = [outcomes.arm == outcomes.arms.index(arm) for arm in (control, treatment)]
    return _compared(outcomes, masks[0], masks[1])


def estimates(outcomes: Outcomes, arm: str) -> dict[str, Estimate]:
    """Metric → estimate, where the arm has two users and a denominator."""
    members = outcomes.arm == outcomes.arms.index(arm)
    found = {name: _arm(outcomes, metric, members) for name, metric in METRICS.items()}
    return {name: estimate(data) for name, data in found.items() if data is not None}


def control_of(outcomes: Outcomes, wanted: str = "") -> str:
    """The control arm: the wanted one, else the one named `control`, else the first by name.

    Raises:
        InvalidConfig: there is no such arm.
    """
    if wanted and wanted not in outcomes.arms:
        raise InvalidConfig(f"no arm {wanted!r}; there are {', '.join(outcomes.arms)}")
    return wanted or ("control" if "control" in outcomes.arms else outcomes.arms[0])


def comparable(outcomes: Outcomes, *arms: str) -> bool:
    """Whether each arm has at least two users."""
    return all((outcomes.arm == outcomes.arms.index(arm)).sum() > 1 for arm in arms)


def split_p(outcomes: Outcomes) -> float:
    """Sample-ratio check of all arms; 1 if there is nothing to check: one arm, or all users have crossed."""
    counts = np.bincount(outcomes.arm, minlength=len(outcomes.arms))
    if len(outcomes.arms) < 2 or not counts.any():
        return 1.0
    return sample_ratio_p(counts.tolist(), outcomes.shares)


def false_positive_rate(outcomes: Outcomes, rng: np.random.Generator, tests: int = 200) -> dict[str, float]:
    """Metric → share of A/A tests on random halves of the users with p < 0.05."""
    wrong: dict[str, int] = {}
    for _ in range(tests):
        half = rng.permutation(len(outcomes.arm)) % 2 == 0
        for name, lift in _compared(outcomes, half, ~half).items():
            wrong[name] = wrong.get(name, 0) + (lift.p < LEVEL)
    return {name: count / tests for name, count in wrong.items()}


def catalogue_lifts(
    outcomes: Outcomes, control: str, treatment: str, rng: np.random.Generator
) -> dict[str, CatalogueLift]:
    """Coverage (share of all shown items that the arm has shown) and evenness (1 - Gini of their impressions).

    Both grow with the number of lists, so the larger arm is thinned to as many users as the smaller one has.
    """
    members = [np.flatnonzero(outcomes.arm == outcomes.arms.index(arm)) for arm in (control, treatment)]
    n = min(map(len, members))
    members = [rng.choice(m, n, replace=False) for m in members]
    items = int(outcomes.shown_item.max(initial=-1)) + 1
    plain = [_catalogue(outcomes, np.bincount(m, minlength=len(outcomes.arm)), items) for m in members]
    drawn = [
        [
            _catalogue(outcomes, np.bincount(rng.choice(m, n), minlength=len(outcomes.arm)), items)
            for m in members
        ]
        for _ in range(RESAMPLES)
    ]
    z = float(stats.norm.ppf(0.975))
    found = {}
    for name in plain[0]:
        base, new = (side[name] for side in plain)
        if not base:
            continue
        relative = new / base - 1
        # A resample repeats users and so covers less, in both arms alike: use its spread, not its centre.
        error = float(np.std([t[name] / c[name] - 1 for c, t in drawn if c[name]], ddof=1))
        found[name] = CatalogueLift(base, new, relative, relative - z * error, relative + z * error)
    return found


def _compared(
    outcomes: Outcomes, control: NDArray[np.bool_], treatment: NDArray[np.bool_]
) -> dict[str, Lift]:
    found = {}
    for name, metric in METRICS.items():
        arms = [_arm(outcomes, metric, mask) for mask in (control, treatment)]
        if arms[0] is not None and arms[1] is not None and arms[0].numerator.any():
            found[name] = compare(arms[0], arms[1])
    return found


def _arm(outcomes: Outcomes, metric: Metric, members: NDArray[np.bool_]) -> ArmData | None:
    numerator, denominator = (outcomes.sums[n][members] for n in (metric.numerator, metric.denominator))
    if len(numerator) < 2 or not denominator.sum():
        return None
    covariate = _covariate(outcomes.before, metric)
    return ArmData(numerator, denominator, None if covariate is None else covariate[members])


def _covariate(before: Mapping[str, Floats], metric: Metric) -> Floats | None:
    """Each user's linearised pre-period value, 0 for a user without one; None without a pre-period."""
    numerator, denominator = before[metric.numerator], before[metric.denominator]
    if metric.denominator == "users":
        return numerator if numerator.any() else None
    if not denominator.sum() or not numerator.any():
        return None
    return np.asarray(numerator - numerator.sum() / denominator.sum() * denominator)


def _catalogue(outcomes: Outcomes, weight: Ints, items: int) -> dict[str, float]:
    counts = np.bincount(outcomes.shown_item, weight[outcomes.shown_user], minlength=items).astype(np.float64)
    return {"coverage": float((counts > 0).mean()), "evenness": 1 - gini(counts)}


def gini(counts: Floats) -> float:
    """Of non-negative counts: 0 when all are equal, towards 1 when one has everything.

    >>> gini(np.array([1.0, 1.0, 1.0, 1.0]))
    0.0
    >>> gini(np.array([0.0, 0.0, 0.0, 4.0]))
    0.75
    """
    total = counts.sum()
    if not total:
        return 0.0
    n = len(counts)
    ordered = np.sort(counts)
    return float(2 * (np.arange(1, n + 1) @ ordered) / (n * total) - (n + 1) / n)
