"""Fit `recsys.ranking.calibration` on validation rows."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from recsys.contracts.types import Head
from recsys.ranking.calibration import Calibration, Isotonic, Platt
from training.ranker.dataset import RankExamples

LEAST_FOR_ISOTONIC = 2_000  # positives; with fewer, steps are noise and Platt's two numbers are safer
KNOTS = 64


def fit_calibrations(
    scores: Mapping[Head, NDArray[np.float32]], examples: RankExamples
) -> dict[Head, Calibration]:
    """One map per probability head. Conversion is P(conversion | click): it is fitted on clicked rows."""
    clicked = examples.label(Head.CLICK) > 0
    everywhere = np.ones(len(examples), bool)
    found = {}
    for head, rows in ((Head.CLICK, everywhere), (Head.CONVERSION, clicked), (Head.LIKE, everywhere)):
        labels = examples.label(head)[rows]
        if 0 < labels.sum() < len(labels):
            found[head] = fit_calibration(scores[head][rows], labels)
    return found


def fit_calibration(raw: NDArray[np.float32], labels: NDArray[np.float32]) -> Calibration:
    """Isotonic where positives are plenty, linear between quantile knots so that order is preserved; else Platt."""
    if min(labels.sum(), len(labels) - labels.sum()) < LEAST_FOR_ISOTONIC:
        return fit_platt(raw, labels)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(raw, labels)
    knots = np.unique(np.quantile(raw, np.linspace(0, 1, KNOTS)).astype(np.float64))
    knots = knots[(knots > 0) & (knots < 1)]
    values = np.clip(fitted.predict(knots), 1e-3, 1 - 1e-3)
    # a floor under the slope: equal values would tie candidates that the model tells apart
    values += 1e-4 * np.linspace(0, 1, len(values))
    return Isotonic((0.0, *knots.tolist(), 1.0), (0.0, *values.tolist(), 1.0))


def fit_platt(raw: NDArray[np.float32], labels: NDArray[np.float32]) -> Calibration:
    p = np.clip(raw.astype(np.float64), 1e-6, 1 - 1e-6)
    log_odds = (np.log(p) - np.log1p(-p)).reshape(-1, 1)
    fitted = LogisticRegression(C=1e4).fit(log_odds, labels)
    return Platt(max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0]))
