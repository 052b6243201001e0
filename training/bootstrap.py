"""Figures with 95 % bootstrap intervals: how much they would change with other rows, or other users, of the same kind.

A resample is a weight per entry, how often it was drawn (Poisson with mean 1, for entries that are many). Whatever is
compared is measured under the same weights, so that shared noise cancels.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.metrics import auc

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap(
    figures: Callable[[Weights], Sequence[float]], n: int, rounds: int = 200, seed: int = 0
) -> list[Estimate]:
    """Figures of n entries, each with its interval.

    A few positives may all be left out of a draw: a figure that is NaN then does not count.

    Args:
        figures: (n,) weights → the figures under them.
    """
    rng = np.random.default_rng(seed)
    drawn = np.array([figures(rng.poisson(1.0, n).astype(np.float64)) for _ in range(rounds)])
    found = []
    for value, column in zip(figures(np.ones(n)), drawn.T, strict=True):
        defined = column[~np.isnan(column)]
        low, high = np.quantile(defined if len(defined) else [np.nan], [0.025, 0.975])
        found.append(Estimate(value, float(low), float(high)))
    return found


def mean_differences(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    users: NDArray[np.generic],
    rounds: int = 1_000,
    seed: int = 0,
) -> list[Estimate]:
    """Means of `ours` minus means of `theirs`, (metrics, cases) each. Whole users are resampled, as one user's cases
    are dependent; `users` (cases,): whose case it is."""
    _, user = np.unique(users, return_inverse=True)
    leads = np.stack([np.bincount(user, row) for row in ours - theirs])
    cases = np.bincount(user).astype(np.float64)

    def figures(drawn: Weights) -> list[float]:
        total = float(cases @ drawn)
        return [float(row @ drawn) / total if total else float("nan") for row in leads]

    return bootstrap(figures, len(cases), rounds, seed)


class WeightedAuc:
    """AUC of rows with multiplicities: sorted once, then linear in the rows for every resample."""

    def __init__(self, labels: NDArray[np.floating], scores: NDArray[np.floating]) -> None:
        self._order = np.argsort(scores, kind="stable")
        self._positive = labels[self._order] > 0
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # groups of equal scores

    def __call__(self, weights: Weights) -> float:
        w = weights[self._order]
        positive = np.add.reduceat(w * self._positive, self._starts)
        negative = np.add.reduceat(w * ~self._positive, self._starts)
        below, pairs = np.cumsum(negative) - negative, positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def user_aucs(
    labels: NDArray[np.floating], scores: NDArray[np.floating], users: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(users, their AUCs, their rows): every user with both labels."""
    order = np.lexsort((scores, users))
    bounds = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0, True])
    found = []
    for start, end in itertools.pairwise(bounds):
        rows = order[start:end]
        if 0 < labels[rows].sum() < len(rows):
            found.append(
                (users[order[start]], auc((labels[rows] > 0).astype(np.int64), scores[rows]), len(rows))
            )
    who, values, counts = np.array(found, np.float64).reshape(-1, 3).T
    return who.astype(np.int64), values, counts
