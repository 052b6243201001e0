"""The figures of ranked rows, each as a function of how often every user is drawn, so that users can be resampled."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.metrics import list_ndcgs
from training.bootstrap import WeightedAuc, Weights, bootstrap, user_aucs
from training.evaluation.ranking.scoreboard import Floats, Scoreboard, Scores, sigmoid

BINS = 20  # of the calibration error, with equal numbers of rows
LENGTH = 10  # of NDCG
# whether more is better; a lead is positive where our model is the better one
_LEADS = {"auc": 1.0, "gauc": 1.0, f"ndcg{LENGTH}": 1.0, "log_loss": -1.0}

Measure = Callable[[Weights], float]  # (users,) weights → the figure


class Judge:
    """Judges scores of the same n rows, by head."""

    def __init__(
        self, labels: Mapping[str, Floats], users: NDArray[np.int64], requests: NDArray[np.int64]
    ) -> None:
        """
        Args:
            labels: (n,) 0 or 1 by head; each head has both.
            users, requests: (n,) numbers, equal for rows of the same one.
        """
        self._labels, self._requests = labels, requests
        known, self._users = np.unique(users, return_inverse=True)
        self._n_users = len(known)

    def __call__(self, scores: Scores) -> dict[str, float]:
        everyone = np.ones(self._n_users)
        return {name: measure(everyone) for name, measure in self.measures(scores).items()}

    def measures(self, scores: Scores) -> dict[str, Measure]:
        """`<head>_<figure>`: AUC, GAUC, NDCG within requests, log loss, calibration error (`BINS` bins) and ratio
        (mean prediction over mean label). What the rows do not define is left out: no user with both labels has no
        GAUC, no request with two rows and a positive has no NDCG."""
        return {
            f"{head}_{name}": measure
            for head, labels in self._labels.items()
            for name, measure in self._of_head(labels, scores[head]).items()
        }

    def _of_head(self, labels: Floats, logits: Floats) -> dict[str, Measure]:
        auc = WeightedAuc(labels, logits)
        found: dict[str, Measure] = {"auc": lambda weights: auc(weights[self._users])}
        who, aucs, counts = user_aucs(labels, logits, self._users)
        if len(who):
            found["gauc"] = _ratio(self._sums(who, aucs * counts), self._sums(who, counts))
        rows, ndcgs = list_ndcgs(labels.astype(np.int64), logits, self._requests, LENGTH)
        if len(rows):
            owners = self._users[rows]
            found[f"ndcg{LENGTH}"] = _ratio(self._sums(owners, ndcgs), self._sums(owners))
        predicted = sigmoid(logits)
        losses = np.logaddexp(0, logits) - labels * logits
        of_user, clicks = self._sums(self._users), self._sums(self._users, labels)
        found["log_loss"] = _ratio(self._sums(self._users, losses), of_user)
        found["calibration_error"] = self._calibration_error(labels, predicted)
        found["calibration_ratio"] = _ratio(self._sums(self._users, predicted), clicks)
        return found

    def _calibration_error(self, labels: Floats, predicted: Floats) -> Measure:
        """As `recsys.metrics.calibration_error`, but equal predictions share a bin, so a constant has one.

        The rows stay in their bins when users are resampled.
        """
        order = np.argsort(predicted, kind="stable")
        sizes = [len(rows) for rows in np.array_split(order, min(BINS, len(order)))]
        first_of_equals = np.searchsorted(predicted[order], predicted[order])
        bins = np.repeat(np.arange(len(sizes)), sizes)[first_of_equals]
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        users, gaps = self._users[order], (labels - predicted)[order]

        def measure(weights: Weights) -> float:
            drawn = weights[users]
            total = drawn.sum()
            return (
                float(np.abs(np.add.reduceat(drawn * gaps, starts)).sum() / total) if total else float("nan")
            )

        return measure

    def _sums(self, users: NDArray[np.int64], values: Floats | None = None) -> Floats:
        """(users,) sums of the values, or counts."""
        return np.bincount(users, values, minlength=self._n_users).astype(np.float64)

    def intervals(self, board: Scoreboard, ours: str) -> dict[str, float]:
        """95 % intervals of our model's figures, `…_low` and `…_high`; its leads over each other model,
        `<ours>_over_<other>_…`, with theirs. Users are resampled; a model of several seeds is their mean.

        The calibration error has none: resampling adds noise to every bin, which only raises it."""
        others = [name for name in board.models if name != ours]
        runs = {name: [self.measures(scores) for scores in board.runs(name)] for name in board.models}
        found: dict[str, float] = {}
        for figure in (name for name in runs[ours][0] if not name.endswith("_calibration_error")):
            sign = next((sign for name, sign in _LEADS.items() if figure.endswith(f"_{name}")), None)
            compared = others if sign else []

            def measured(
                weights: Weights,
                figure: str = figure,
                compared: list[str] = compared,
                sign: float = sign or 1.0,
            ) -> list[float]:
                mean = {
                    name: float(np.mean([run[figure](weights) for run in runs[name]]))
                    for name in (ours, *compared)
                }
                return [mean[ours], *(sign * (mean[ours] - mean[other]) for other in compared)]

            own, *leads = bootstrap(measured, self._n_users)
            found |= {f"{ours}_{figure}_low": own.low, f"{ours}_{figure}_high": own.high}
            for other, lead in zip(compared, leads, strict=True):
                name = f"{ours}_over_{other}_{figure}"
                found |= {name: lead.value, f"{name}_low": lead.low, f"{name}_high": lead.high}
        return found


def _ratio(above: Floats, below: Floats) -> Measure:
    """The quotient of two sums over users."""

    def measure(weights: Weights) -> float:
        total = float(weights @ below)
        return float(weights @ above) / total if total else float("nan")

    return measure
