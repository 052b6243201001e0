"""Learn how far items' clicks lie from the ranker's predictions: `recsys.ranking.uncertainty`.

For each item of the validation rows, R = Σ (click − p) is compared with what chance explains, V = Σ p (1 − p):

    R ~ N(0, V + V² · v)        v = 1 / (1 / item_variance + n · q)

n: impressions before these rows; q: mean p (1 − p). The variance with the highest likelihood is taken, or 0 where it is
not better than 0 by more than chance gives.
"""

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.features.definitions import FEATURES
from recsys.ranking.uncertainty import SHOWN, Uncertainty
from training.ranker.dataset import RankExamples

_VARIANCES = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 81)])
_CLEARLY = 1.92  # in log likelihood: half of chi-squared's 95 % quantile

Floats = NDArray[np.float64]


def fit_uncertainty(click: NDArray[np.float32], validation: RankExamples) -> Uncertainty:
    """
    Args:
        click: (n,) calibrated probabilities of the validation rows.
    """
    known = validation.items > 0
    shown = _shown(validation.features[known])
    clicked = validation.label(Head.CLICK)[known] > 0
    p = np.clip(click[known].astype(np.float64), 1e-6, 1 - 1e-6)
    _, item = np.unique(validation.items[known], return_inverse=True)
    if not item.size:
        return Uncertainty(item_variance=0.0)
    rows = np.bincount(item)
    residual, chance = (np.asarray(np.bincount(item, x), np.float64) for x in (clicked - p, p * (1 - p)))
    before = np.full(len(rows), np.inf)
    np.minimum.at(before, item, np.nan_to_num(shown))
    likelihood = np.array([_log_likelihood(v, residual, chance, before * chance / rows) for v in _VARIANCES])
    best = int(likelihood.argmax())
    return Uncertainty(
        item_variance=float(_VARIANCES[best]) if likelihood[best] > likelihood[0] + _CLEARLY else 0.0
    )


def _shown(features: NDArray[np.float32]) -> Floats:
    """(n,) impressions of the items; none counted where the features are not the served ones (a model benchmark's)."""
    if features.shape[1] < FEATURES.dimension:
        return np.zeros(len(features))
    return features[:, FEATURES.names.index(SHOWN)].astype(np.float64)


def _log_likelihood(item_variance: float, residual: Floats, chance: Floats, information: Floats) -> float:
    variance = chance + chance**2 * item_variance / (1 + item_variance * information)
    return float(-0.5 * (np.log(variance) + residual**2 / variance).sum())
