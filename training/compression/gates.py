"""Gates of the compression ladder: a variant that lost quality is not published, and the reasons are printed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.metrics import calibration_error
from training.bootstrap import Estimate, WeightedAuc, bootstrap, user_aucs
from training.ranker.dataset import RankExamples
from training.ranker.train import labels_by_head, over_all_rows

Scores = Mapping[Head, NDArray[np.float32]]
STUDENT_DROP = 0.002  # AUC below the teacher's, in any head
INT8_DROP = 0.0005  # AUC below fp32's, with 95 % confidence
OVERLAP = 0.98  # top 50 of 500 in common with the fp32 student
CALIBRATION_SLACK = 1.10  # times the teacher's error …
CALIBRATION_FLOOR = 0.005  # … and below this an error is noise


def auc_difference(
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    rounds: int = 200,
    seed: int = 0,
) -> Estimate:
    """AUC of one variant minus AUC of the reference on the same rows; the bootstrap resamples rows."""
    ours, theirs = WeightedAuc(labels, scores), WeightedAuc(labels, reference)
    return bootstrap(lambda weights: [ours(weights) - theirs(weights)], len(labels), rounds, seed)[0]


def gauc_difference(
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    users: NDArray[np.int64],
    rounds: int = 200,
    seed: int = 0,
) -> Estimate:
    """As `auc_difference` for GAUC; whole users are resampled."""
    (_, ours, counts), (_, theirs, _) = (user_aucs(labels, s, users) for s in (scores, reference))

    def difference(drawn: NDArray[np.float64]) -> list[float]:
        weights = counts * drawn
        total = weights.sum()
        return [float((weights * (ours - theirs)).sum() / total) if total else float("nan")]

    return bootstrap(difference, len(counts), rounds, seed)[0]


def student_gate(student: Scores, teacher: Scores, examples: RankExamples) -> list[str]:
    """Reasons to refuse: a probability head lost more than `STUDENT_DROP` AUC, or its calibration got worse."""
    reasons = []
    ours, theirs = over_all_rows(student), over_all_rows(teacher)
    for head, labels in labels_by_head(examples).items():
        if not 0 < labels.sum() < len(labels):
            continue
        drop = -auc_difference(labels, ours[head], theirs[head], rounds=2).value
        if not drop <= STUDENT_DROP:
            reasons.append(
                f"{head}: AUC fell by {drop:.4f} below the teacher's, at most {STUDENT_DROP} is allowed"
            )
        happened = (labels > 0).astype(np.int64)
        error, allowed = calibration_error(happened, ours[head]), calibration_error(happened, theirs[head])
        limit = max(CALIBRATION_SLACK * allowed, CALIBRATION_FLOOR)
        if not error <= limit:
            reasons.append(f"{head}: calibration error {error:.4f}, at most {limit:.4f} is allowed")
    return reasons


def quantization_gate(
    quantized: Scores, reference: Scores, examples: RankExamples, overlap: float
) -> list[str]:
    """Reasons to refuse: with 95 % confidence a head may have lost more than `INT8_DROP`, or the lists differ."""
    reasons = []
    ours, theirs = over_all_rows(quantized), over_all_rows(reference)
    for head, labels in labels_by_head(examples).items():
        if not 0 < labels.sum() < len(labels):
            continue
        difference = auc_difference(labels, ours[head], theirs[head])
        if not difference.low >= -INT8_DROP:
            reasons.append(
                f"{head}: AUC changed by {difference.value:.5f} [{difference.low:.5f}, {difference.high:.5f}] "
                f"against fp32, and may have fallen by more than {INT8_DROP}"
            )
    if not overlap >= OVERLAP:
        reasons.append(f"top-50 overlap {overlap:.3f} with fp32, at least {OVERLAP} is needed")
    return reasons


def refuse(variant: str, reasons: list[str]) -> None:
    """
    Raises:
        InvalidBundle: there is any reason.
    """
    if reasons:
        raise InvalidBundle(
            f"{variant} is refused: {'; '.join(reasons)}. Train longer, prune less, or publish an earlier variant"
        )


def top_overlap(ours: NDArray[np.float32], reference: NDArray[np.float32], k: int = 50) -> float:
    """Mean share of the top k in common. Both (requests, candidates)."""
    first, second = (np.argsort(-x, axis=1, kind="stable")[:, :k] for x in (ours, reference))
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(first, second, strict=True)]))
