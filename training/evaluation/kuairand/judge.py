"""Figures of a model on KuaiRand's test rows, and differences between models."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.metrics import auc, calibration_error, gauc, xauc
from training.compression.gates import auc_difference, gauc_difference
from training.evaluation.kuairand.baselines import DWELL, Labels, Logits

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
HEADS = ("click", "long_view", "like", DWELL)


def judge(labels: Labels, users: Ids, logits: Mapping[str, Floats]) -> dict[str, float]:
    """The published figures: AUC, GAUC and calibration error per head, XAUC and mean absolute error of dwell."""
    found = {}
    for head in HEADS[:3]:
        happened = labels[head].astype(np.int64)
        found[f"{head}_auc"] = auc(happened, logits[head])
        found[f"{head}_gauc"] = gauc(happened, logits[head], users)
        found[f"{head}_calibration_error"] = calibration_error(happened, sigmoid(logits[head]))
    seconds, predicted = np.expm1(labels[DWELL]), np.expm1(np.maximum(logits[DWELL], 0))
    found["dwell_xauc"] = xauc(seconds, predicted, pairs=2_000_000)
    found["dwell_mae_s"] = float(np.abs(seconds - predicted).mean())
    return found


def compare(
    labels: Labels, users: Ids, ours: str, theirs: str, logits: Mapping[str, Mapping[str, Floats]]
) -> dict[str, float]:
    """Differences of two models with 95 % bootstrap intervals (over rows for AUC, over users for GAUC)."""
    found: dict[str, float] = {}
    for head in HEADS[:3]:
        y, a, b = (x.astype(np.float32) for x in (labels[head], logits[ours][head], logits[theirs][head]))
        for metric, difference in (
            ("auc", auc_difference(y, a, b)),
            ("gauc", gauc_difference(y, a, b, users)),
        ):
            name = f"{ours}_over_{theirs}_{head}_{metric}"
            found |= {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}
    return found


def means(judged: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """`<model>_<figure>` over the seeds, with its standard deviation where there are several."""
    found: dict[str, float] = {}
    for name, runs in judged.items():
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            found[f"{name}_{figure}"] = float(np.mean(values))
            if len(values) > 1:
                found[f"{name}_{figure}_sd"] = float(np.std(values, ddof=1))
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
