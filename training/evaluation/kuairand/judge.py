"""Figures of a model on KuaiRand's test rows, and differences between models."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.metrics import auc, calibration_error, gauc, xauc
from training.compression.gates import auc_difference, gauc_difference
from training.evaluation.ranking.baselines import DWELL, Labels
from training.evaluation.ranking.scoreboard import Floats, Scoreboard, Scores, logit, sigmoid

HEADS = ("click", "long_view", "like", DWELL)


class Judge:
    """Judges scores of the test rows."""

    def __init__(self, labels: Labels, users: NDArray[np.int64]) -> None:
        self._labels, self._users = labels, users

    def __call__(self, logits: Scores) -> dict[str, float]:
        """The published figures: AUC, GAUC and calibration error per head, XAUC and mean absolute error of dwell."""
        found = {}
        for head in HEADS[:3]:
            happened = self._labels[head].astype(np.int64)
            found[f"{head}_auc"] = auc(happened, logits[head])
            found[f"{head}_gauc"] = gauc(happened, logits[head], self._users)
            found[f"{head}_calibration_error"] = calibration_error(happened, sigmoid(logits[head]))
        seconds, predicted = np.expm1(self._labels[DWELL]), np.expm1(np.maximum(logits[DWELL], 0))
        found["dwell_xauc"] = xauc(seconds, predicted, pairs=2_000_000)
        found["dwell_mae_s"] = float(np.abs(seconds - predicted).mean())
        return found

    def compare(self, board: Scoreboard, ours: str, theirs: str) -> dict[str, float]:
        """Differences under the first seed with 95 % bootstrap intervals (over rows for AUC, over users for GAUC)."""
        found: dict[str, float] = {}
        for head in HEADS[:3]:
            columns = (self._labels[head], *(board.runs(name)[0][head] for name in (ours, theirs)))
            y, a, b = (column.astype(np.float32) for column in columns)
            for metric, difference in (
                ("auc", auc_difference(y, a, b)),
                ("gauc", gauc_difference(y, a, b, self._users)),
            ):
                name = f"{ours}_over_{theirs}_{head}_{metric}"
                found |= {
                    name: difference.value,
                    f"{name}_low": difference.low,
                    f"{name}_high": difference.high,
                }
        return found


def of_scores(scores: Mapping[Head, NDArray[np.float32]]) -> dict[str, Floats]:
    """The exported ranker's scores as logits by head; a long view is a click and its conversion, over all rows."""
    click, conversion, like, dwell = (scores[head].astype(np.float64) for head in Head)
    return {"click": logit(click), "long_view": logit(click * conversion), "like": logit(like), DWELL: dwell}
