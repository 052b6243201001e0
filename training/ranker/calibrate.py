"""Fit `recsys.ranking.calibration` on validation rows; a head whose label never varies becomes a constant."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from recsys.contracts.types import Head
from recsys.ranking.calibration import Calibration, Constant, Isotonic, Platt
from training.ranker.dataset import RankExamples

LEAST_FOR_ISOTONIC = 2_000  # positives; with fewer, steps are noise and Platt's two numbers are safer
KNOTS = 64


def fit_calibrations(
    scores: Mapping[Head, NDArray[np.float32]], validation: RankExamples, train: RankExamples
) -> dict[Head, Calibration]:
    """One map per probability head, and a constant for a head, dwell too, without two different labels in `train`.

    Args:
        scores: of the validation rows.
    """
    found: dict[Head, Calibration] = {}
    for head in Head:
        rows, labels = _labels(head, validation)
        _, learnt = _labels(head, train)
        if head is not Head.DWELL and 0 < labels.sum() < len(labels):
            found[head] = fit_calibration(scores[head][rows], labels)
        elif not learnt.size or learnt.min() == learnt.max():
            found[head] = Constant(float(learnt[0]) if learnt.size else 0.0)
    return found


def _labels(head: Head, examples: RankExamples) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """The rows that say something of a head, and their labels. Conversion is P(conversion | click)."""
    everywhere = np.ones(len(examples), bool)
    rows = examples.label(Head.CLICK) > 0 if head is Head.CONVERSION else everywhere
    return rows, examples.label(head)[rows]


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
