"""What a model's scores are worth: accuracy per case, on slices of the cases, and what its lists are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.metrics import NO_ITEM, coverage, gini, hits, ndcgs, popularity_bias, recalls, reciprocal_ranks
from training.bootstrap import mean_differences
from training.two_tower.retrieval import Cases, Scorer, scored, target_ranks

LENGTHS = (5, 10, 20, 50, 200)  # of the lists that are judged
LIST_LENGTH = 10  # of coverage, Gini and popularity bias
LONG_HISTORY = 100
TAIL = 0.8  # share of the catalogue that is the tail: the least popular items
_AT = {"hr": hits, "recall": recalls, "ndcg": ndcgs, "mrr": reciprocal_ranks}
_OF_SLICES = ("hr10", "hr200")

Slices = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Measured:
    """Of one model. `per_case`: by metric (hr10, mrr, …), (n,) each; `lists`: by metric, a value each."""

    per_case: Mapping[str, NDArray[np.float64]]
    lists: Mapping[str, float]

    def figures(self, slices: Slices) -> dict[str, float]:
        """Means over all cases and over each non-empty slice; the composition of the lists."""
        found = {metric: float(values.mean()) for metric, values in self.per_case.items()} | dict(self.lists)
        for name, mask in slices.items():
            if mask.any():
                found |= {
                    f"{metric}_{name}": float(self.per_case[metric][mask].mean()) for metric in _OF_SLICES
                }
        return found


def measure(scorer: Scorer, cases: Cases, popularity: NDArray[np.float64]) -> Measured:
    """`popularity` (n_items,): users who had the item before the test."""
    n_items = len(popularity)
    shown = min(LIST_LENGTH, n_items)
    per_case = {f"{name}{k}": np.zeros(len(cases)) for name in _AT for k in LENGTHS}
    per_case["mrr"] = np.zeros(len(cases))
    lists = np.zeros((len(cases), shown), np.int64)
    for places, scores in scored(scorer, cases, n_items):
        ranks = target_ranks(scores, [cases.targets[p] for p in places])
        for name, metric in _AT.items():
            for k in LENGTHS:
                per_case[f"{name}{k}"][places] = metric(ranks, k)
        per_case["mrr"][places] = reciprocal_ranks(ranks)
        best = np.argpartition(-scores, min(shown, n_items - 1), axis=1)[:, :shown]
        is_new = np.isfinite(np.take_along_axis(scores, best, axis=1))
        lists[places] = np.where(is_new, best, NO_ITEM)
    composition = {
        "coverage10": coverage(lists, n_items),
        "gini10": gini(lists, n_items),
        "popularity_bias10": popularity_bias(lists, popularity),
    }
    return Measured(per_case, composition)


def mean(runs: Sequence[Measured]) -> Measured:
    """Case by case over runs with several seeds."""
    return Measured(
        {metric: np.mean([run.per_case[metric] for run in runs], axis=0) for metric in runs[0].per_case},
        {metric: float(np.mean([run.lists[metric] for run in runs])) for metric in runs[0].lists},
    )


def lead(ours: Measured, theirs: Measured, metrics: Sequence[str], users: Sequence[str]) -> dict[str, float]:
    """Our mean minus theirs in each of the `metrics` that cases have, with its 95 % interval (`_low`, `_high`)."""
    of_cases = [metric for metric in metrics if metric in ours.per_case]
    mine, others = (np.stack([m.per_case[metric] for metric in of_cases]) for m in (ours, theirs))
    found: dict[str, float] = {}
    for metric, e in zip(of_cases, mean_differences(mine, others, np.array(users)), strict=True):
        found |= {metric: e.value, f"{metric}_low": e.low, f"{metric}_high": e.high}
    return found


def slice_cases(
    cases: Cases, popularity: NDArray[np.float64], trained_users: set[str]
) -> dict[str, NDArray[np.bool_]]:
    """Which cases belong to each slice; of `new_items` and `tail_items` is a case all of whose items are."""
    is_tail = np.zeros(len(popularity), np.bool_)
    is_tail[np.argsort(popularity, kind="stable")[: int(TAIL * len(popularity))]] = True
    return {
        "new_users": np.array([h.user_id not in trained_users for h in cases.histories]),
        "new_items": np.array([not popularity[wanted].any() for wanted in cases.targets]),
        "tail_items": np.array([bool(is_tail[wanted].all()) for wanted in cases.targets]),
        "long_histories": np.array([len(h.numbers) >= LONG_HISTORY for h in cases.histories]),
    }
