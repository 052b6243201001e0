"""Figures of a model on KuaiRand's test rows, and differences between models."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.metrics import auc, calibration_error, gauc, xauc
from training.compression.gates import auc_difference, gauc_difference
from training.evaluation.ranking.baselines import DWELL, Labels, Logits

Floats = NDArray[np.float64]
HEADS = ("click", "long_view", "like", DWELL)


class Scoreboard:
    """Judges models on the test rows, over several seeds."""

    def __init__(self, labels: Labels, users: NDArray[np.int64], report: Callable[[str], None]) -> None:
        self._labels, self._users, self._report = labels, users, report
        self._judged: dict[str, list[dict[str, float]]] = {}
        self._first: dict[str, Mapping[str, Floats]] = {}

    def add(self, seed: int, name: str, logits: Mapping[str, Floats]) -> None:
        found = self.judge(logits)
        self._judged.setdefault(name, []).append(found)
        self._first.setdefault(name, logits)
        self._report(f"seed {seed} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))

    def judge(self, logits: Mapping[str, Floats]) -> dict[str, float]:
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

    def means(self) -> dict[str, float]:
        """`<model>_<figure>` over the seeds, with its standard deviation where there are several."""
        found: dict[str, float] = {}
        for name, runs in self._judged.items():
            for figure in runs[0]:
                values = [run[figure] for run in runs]
                found[f"{name}_{figure}"] = float(np.mean(values))
                if len(values) > 1:
                    found[f"{name}_{figure}_sd"] = float(np.std(values, ddof=1))
        return found

    def compare(self, ours: str, theirs: str) -> dict[str, float]:
        """Differences under the first seed with 95 % bootstrap intervals (over rows for AUC, over users for GAUC)."""
        found: dict[str, float] = {}
        for head in HEADS[:3]:
            columns = (self._labels[head], self._first[ours][head], self._first[theirs][head])
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


def of_scores(scores: Mapping[Head, NDArray[np.float32]]) -> Logits:
    """The exported ranker's scores as logits by head; a long view is a click and its conversion, over all rows."""
    click, conversion, like, dwell = (scores[head].astype(np.float64) for head in Head)
    return {"click": logit(click), "long_view": logit(click * conversion), "like": logit(like), DWELL: dwell}


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p))
