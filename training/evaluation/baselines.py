"""Recall baselines: popularity, item-kNN, EASE, implicit ALS. Each fit gives a `Scorer`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from recsys.metrics import ndcg
from training.two_tower.cooccurrence import interactions, item_neighbours
from training.two_tower.cooccurrence import popularity as decayed_popularity
from training.two_tower.retrieval import Cases, Scorer, next_item_ranks
from training.two_tower.sequences import History


@dataclass(frozen=True)
class TrainingHistories:
    """What a baseline is fitted on."""

    histories: Sequence[History]
    n_items: int

    @cached_property
    def seen(self) -> sparse.csr_matrix:
        """(n_users, n_items), 1 where the user has the item."""
        return interactions(self.histories, self.n_items)


Fit = Callable[[TrainingHistories], Scorer]


def popularity(train: TrainingHistories) -> Scorer:
    """How many users had the item."""
    return _same_for_all(train.seen.sum(0))


def recent_popularity(half_life_days: float) -> Fit:
    """How many events the item had; an event one half-life before the newest counts half."""
    return lambda train: _same_for_all(decayed_popularity(train.histories, train.n_items, half_life_days))


def _same_for_all(scores: ArrayLike) -> Scorer:
    counts = np.asarray(scores, np.float32).ravel()
    return lambda histories, now_ms: np.tile(counts, (len(histories), 1))


def item_knn(m: int, shrink: float) -> Fit:
    """Sum of similarities between the candidate and the user's items, m neighbours each (Deshpande & Karypis, 2004)."""

    def fit(train: TrainingHistories) -> Scorer:
        n_items = train.n_items
        neighbours, scores = item_neighbours(train.seen, m, shrink)
        rows = np.repeat(np.arange(n_items), m)
        real = neighbours.ravel() >= 0
        similar = sparse.csr_matrix(
            (scores.ravel()[real], (rows[real], neighbours.ravel()[real])), (n_items, n_items)
        )
        return lambda histories, now_ms: (interactions(histories, n_items) @ similar).toarray()

    return fit


def ease(regularisation: float) -> Fit:
    """EASE: ridge regression of every item on all others, in closed form (Steck, 2019).

    P = (XᵀX + λI)⁻¹, B = I - P / diag(P), scores = x B.
    """

    def fit(train: TrainingHistories) -> Scorer:
        gram = np.asarray((train.seen.T @ train.seen).todense(), np.float64)
        gram[np.diag_indices_from(gram)] += regularisation
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        weights[np.diag_indices_from(weights)] = 0
        weights = weights.astype(np.float32)
        return lambda histories, now_ms: np.asarray(interactions(histories, len(weights)) @ weights)

    return fit


def als(factors: int, alpha: float, regularisation: float = 0.05, seed: int = 0) -> Fit:
    """Weighted matrix factorisation (Hu et al., 2008); a user's factors are solved for the given history."""

    def fit(train: TrainingHistories) -> Scorer:
        model = AlternatingLeastSquares(
            factors=factors, alpha=alpha, regularization=regularisation, iterations=15, random_state=seed
        )
        model.fit(train.seen, show_progress=False)

        def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
            asked = interactions(histories, train.n_items)
            users = model.recalculate_user(np.arange(len(histories)), asked)
            return np.asarray(users @ model.item_factors.T, np.float32)

        return scores

    return fit


GRID: Mapping[str, Mapping[str, Fit]] = {
    "popularity": {
        "all time": popularity,
        **{f"half-life {days:g} days": recent_popularity(days) for days in (1.0, 7.0, 30.0)},
    },
    "item_knn": {f"m={m}, shrink={s}": item_knn(m, s) for m, s in ((20, 10.0), (100, 10.0), (200, 50.0))},
    "ease": {f"lambda={value}": ease(value) for value in (50.0, 200.0, 500.0, 1000.0)},
    "als": {f"factors={f}, alpha={a}": als(f, a) for f, a in ((32, 1.0), (64, 2.0), (128, 5.0))},
}


def tuned(
    train: Sequence[History], validation: Cases, refit: Sequence[History], n_items: int
) -> dict[str, tuple[Scorer, str]]:
    """Each baseline with its settings of the best validation NDCG@10, refitted on `refit`; and those settings' name."""
    fitted: dict[str, tuple[Scorer, str]] = {}
    before, everything = TrainingHistories(train, n_items), TrainingHistories(refit, n_items)
    for name, settings in GRID.items():
        quality: dict[str, float] = {}
        for label, fit in settings.items() if len(settings) > 1 else ():
            quality[label] = ndcg(next_item_ranks(fit(before), validation), 10)
        best = max(quality, key=quality.__getitem__) if quality else next(iter(settings))
        fitted[name] = (settings[best](everything), best)
    return fitted
