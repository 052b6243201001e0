"""Estimate the reward of a new policy from the log of another one: IPS, SNIPS and doubly robust.

The log needs propensities. Actions that the logging policy could not take cannot be estimated, so each estimate comes
with its effective sample size. Formulas: Horvitz & Thompson 1952; Swaminathan & Joachims 2015; Dudík et al. 2011.
Intervals are normal approximations over the logged rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean reward per row under the new policy, with its interval."""

    value: float
    low: float
    high: float
    effective_rows: float  # (sum w)^2 / sum w^2: the effective sample size


@dataclass(frozen=True, slots=True)
class Log:
    """Logged rows; every array (n,). `new` is the new policy's probability of the logged action."""

    reward: Floats
    logged: Floats  # the logging policy's probability of the action, in (0, 1]
    new: Floats

    def __post_init__(self) -> None:
        if not len(self.reward) == len(self.logged) == len(self.new) > 1:
            raise ValueError("reward, logged and new need the same length, at least two rows")
        if not ((self.logged > 0) & (self.logged <= 1)).all():
            raise ValueError("logged propensities must be in (0, 1]: log the probability of the action taken")

    def weights(self, clip: float) -> Floats:
        """(n,) importance weights; clipping trades variance for a downward bias."""
        return np.minimum(self.new / self.logged, clip)


def ips(log: Log, clip: float = np.inf, confidence: float = 0.95) -> Estimate:
    """Inverse propensity score: mean(w · r). Unbiased without clipping."""
    weights = log.weights(clip)
    return _estimate(weights * log.reward, weights, confidence)


def snips(log: Log, clip: float = np.inf, confidence: float = 0.95) -> Estimate:
    """Self-normalised: sum(w · r) / sum(w). Slightly biased, much steadier, never outside the rewards' range."""
    weights = log.weights(clip)
    value = float(weights @ log.reward / weights.sum())
    residuals = value + weights * (log.reward - value) / weights.mean()
    return _estimate(residuals, weights, confidence)


def doubly_robust(
    log: Log, predicted: Floats, predicted_new: Floats, clip: float = np.inf, confidence: float = 0.95
) -> Estimate:
    """mean(q_new + w · (r - q)): right if the propensities *or* the reward model are.

    predicted (n,): the model's reward of the logged action. predicted_new (n,): its mean under the new policy.
    """
    weights = log.weights(clip)
    return _estimate(predicted_new + weights * (log.reward - predicted), weights, confidence)


def _estimate(terms: Floats, weights: Floats, confidence: float) -> Estimate:
    value = float(terms.mean())
    half = float(stats.norm.ppf(0.5 + confidence / 2) * terms.std(ddof=1) / np.sqrt(len(terms)))
    squares = float(weights @ weights)
    effective = float(weights.sum() ** 2 / squares) if squares else 0.0
    return Estimate(value, value - half, value + half, effective)
