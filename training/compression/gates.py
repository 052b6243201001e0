"""Gates of the compression ladder: a variant that lost quality is not published, and the reasons are printed."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.metrics import auc, calibration_error
from training.ranker.dataset import RankExamples
from training.ranker.train import labels_by_head, over_all_rows

Scores = Mapping[Head, NDArray[np.float32]]
STUDENT_DROP = 0.002  # AUC below the teacher's, in any head
INT8_DROP = 0.0005  # AUC below fp32's, with 95 % confidence
OVERLAP = 0.98  # top 50 of 500 in common with the fp32 student
CALIBRATION_SLACK = 1.10  # times the teacher's error …
CALIBRATION_FLOOR = 0.005  # … and below this an error is noise


@dataclass(frozen=True)
class Difference:
    """AUC of one variant minus AUC of the reference on the same rows, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def auc_difference(
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    rounds: int = 200,
    seed: int = 0,
) -> Difference:
    """Paired bootstrap over rows: both models are judged on the same resampled rows, so shared noise cancels."""
    ours, theirs = _WeightedAuc(labels, scores), _WeightedAuc(labels, reference)
    return _bootstrap(lambda weights: ours(weights) - theirs(weights), len(labels), rounds, seed)


def gauc_difference(
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    users: NDArray[np.int64],
    rounds: int = 200,
    seed: int = 0,
) -> Difference:
    """As `auc_difference` for GAUC; whole users are resampled."""
    (ours, counts), (theirs, _) = (_user_aucs(labels, s, users) for s in (scores, reference))

    def difference(drawn: NDArray[np.float64]) -> float:
        weights = counts * drawn
        total = weights.sum()
        return float((weights * (ours - theirs)).sum() / total) if total else float("nan")

    return _bootstrap(difference, len(counts), rounds, seed)


def _bootstrap(
    difference: Callable[[NDArray[np.float64]], float], n: int, rounds: int, seed: int
) -> Difference:
    """`difference` of n resampled entries, by how often each is drawn. A few positives may all be left out: such a
    draw has no difference and does not count."""
    rng = np.random.default_rng(seed)
    drawn = [difference(rng.poisson(1.0, n).astype(np.float64)) for _ in range(rounds)]
    low, high = np.quantile([d for d in drawn if not np.isnan(d)] or [np.nan], [0.025, 0.975])
    return Difference(difference(np.ones(n)), float(low), float(high))


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


def _user_aucs(
    labels: NDArray[np.float32], scores: NDArray[np.float32], users: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and rows of every user with both labels."""
    order = np.lexsort((scores, users))
    bounds = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0, True])
    found = []
    for start, end in itertools.pairwise(bounds):
        rows = order[start:end]
        if 0 < labels[rows].sum() < len(rows):
            found.append((auc((labels[rows] > 0).astype(np.int64), scores[rows]), len(rows)))
    values, counts = np.array(found, np.float64).reshape(-1, 2).T
    return values, counts


class _WeightedAuc:
    """AUC of rows with multiplicities: sorted once, then linear in the rows for every resample."""

    def __init__(self, labels: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self._order = np.argsort(scores, kind="stable")
        self._positive = labels[self._order] > 0
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # groups of equal scores

    def __call__(self, weights: NDArray[np.float64]) -> float:
        w = weights[self._order]
        positive = np.add.reduceat(w * self._positive, self._starts)
        negative = np.add.reduceat(w * ~self._positive, self._starts)
        below, pairs = np.cumsum(negative) - negative, positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")
