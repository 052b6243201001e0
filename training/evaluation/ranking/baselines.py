"""Models that the ranker is compared with, one per head: LightGBM, logistic regression, rates of items or positions."""

from collections.abc import Mapping

import lightgbm as lgb
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from recsys.models.blocks import NumericFeatures, numeric_statistics
from training.config import Config

Matrix = NDArray[np.float32]
Labels = Mapping[str, NDArray[np.float64]]  # by head: 0/1, or log1p seconds for `DWELL`
Logits = dict[str, NDArray[np.float64]]  # by head, one array for each matrix that was asked for
DWELL = "dwell"
SMOOTHING = 20.0  # rows with the mean rate that every code is given


class TreesConfig(Config):
    """LightGBM's parameters; the defaults are those of the published baseline."""

    trees: int = Field(600, description="At most.")
    learning_rate: float = Field(0.03, description="Shrinkage of each tree.")
    leaves: int = Field(31, description="Per tree.")
    least_rows: int = Field(80, description="Per leaf.")
    columns: float = Field(0.6, description="Share of the features, drawn for each tree.")
    bins: int = Field(255, description="Per feature.")
    stop_after: int = Field(50, description="Trees without a better validation score.")
    seed: int = Field(0, description="Of the drawing.")


FOREST = TreesConfig(learning_rate=0.08, columns=0.3, bins=63)  # for many columns: faster, and as good


def trees(
    train: Matrix,
    labels: Labels,
    validation: Matrix,
    held_out: Labels,
    ask: list[Matrix],
    config: TreesConfig,
) -> list[Logits]:
    """One early-stopped LightGBM per head; raw scores (log odds, log1p seconds) of every matrix in `ask`."""
    found: list[Logits] = [{} for _ in ask]
    for head, target in labels.items():
        parameters = {
            "objective": "l1" if head == DWELL else "binary",
            "metric": "l1" if head == DWELL else "auc",
            "learning_rate": config.learning_rate,
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.least_rows,
            "max_bin": config.bins,
            "feature_fraction": config.columns,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "num_threads": 1,
            "seed": config.seed,
            "deterministic": True,
            "verbose": -1,
        }
        data = lgb.Dataset(train, target)
        model = lgb.train(
            parameters,
            data,
            config.trees,
            valid_sets=[lgb.Dataset(validation, held_out[head], reference=data)],
            callbacks=[lgb.early_stopping(config.stop_after, verbose=False)],
        )
        for scores, matrix in zip(found, ask, strict=True):
            scores[head] = np.asarray(model.predict(matrix, raw_score=True, num_threads=1))
    return found


def logistic_regression(train: Matrix, labels: Labels, ask: list[Matrix]) -> list[Logits]:
    """On standardised features, as the ranker's first layer reads them; linear regression for dwell."""
    block = NumericFeatures(*numeric_statistics(torch.from_numpy(train), 1), width=0)
    ready = [block(torch.from_numpy(m)).numpy() for m in (train, *ask)]
    found: list[Logits] = [{} for _ in ask]
    for head, target in labels.items():
        if head == DWELL:
            with_bias = np.hstack([ready[0], np.ones((len(ready[0]), 1), np.float32)])
            weights = np.linalg.lstsq(with_bias, target, rcond=None)[0]
        else:
            model = LogisticRegression(C=0.1, max_iter=200).fit(ready[0], target)
            weights = np.append(model.coef_[0], model.intercept_[0])
        for scores, matrix in zip(found, ready[1:], strict=True):
            scores[head] = matrix @ weights[:-1] + weights[-1]
    return found


def smoothed_rates(train: NDArray[np.int64], labels: Labels, ask: NDArray[np.int64]) -> Logits:
    """Log odds of how often each code's training rows were positive, shrunk to the mean rate; a new code has that.

    Args:
        train, ask: (n,), (m,) codes from 0: items (popularity), positions, or all alike (the class prior).
        labels: (n,) 0/1 by head, each head with both.
    """
    size = int(max(train.max(), ask.max())) + 1
    rows = np.bincount(train, minlength=size) + SMOOTHING
    found: Logits = {}
    for head, target in labels.items():
        rates = (np.bincount(train, target, minlength=size) + SMOOTHING * target.mean()) / rows
        found[head] = (np.log(rates) - np.log1p(-rates))[ask]
    return found
