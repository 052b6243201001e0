"""What a learnt model must beat: popularity, item-kNN, EASE, implicit ALS. Each is fitted on a user × item matrix
and gives a `Scorer`; `tuned` picks a few settings by validation NDCG@10.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy import sparse

from recsys.metrics import ndcg
from training.cooccurrence import interactions, item_neighbours
from training.dataset import History
from training.retrieval import Cases, Scorer, next_item_ranks

Fit = Callable[[sparse.csr_matrix], Scorer]


def popularity(seen: sparse.csr_matrix) -> Scorer:
    """How many users had the item."""
    counts = np.asarray(seen.sum(0), np.float32).ravel()
    return lambda histories, now_ms: np.tile(counts, (len(histories), 1))


def item_knn(m: int, shrink: float) -> Fit:
    """Sum of the similarities of the user's items to the candidate, m neighbours each (Deshpande & Karypis, 2004)."""

    def fit(seen: sparse.csr_matrix) -> Scorer:
        n_items = seen.shape[1]
        neighbours, scores = item_neighbours(seen, m, shrink)
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

    def fit(seen: sparse.csr_matrix) -> Scorer:
        gram = np.asarray((seen.T @ seen).todense(), np.float64)
        gram[np.diag_indices_from(gram)] += regularisation
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        weights[np.diag_indices_from(weights)] = 0
        weights = weights.astype(np.float32)
        return lambda histories, now_ms: np.asarray(interactions(histories, len(weights)) @ weights)

    return fit


def als(factors: int, alpha: float, regularisation: float = 0.05, seed: int = 0) -> Fit:
    """Weighted matrix factorisation (Hu et al., 2008); a user's factors are solved for the history asked about."""

    def fit(seen: sparse.csr_matrix) -> Scorer:
        model = AlternatingLeastSquares(
            factors=factors, alpha=alpha, regularization=regularisation, iterations=15, random_state=seed
        )
        model.fit(seen, show_progress=False)

        def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
            asked = interactions(histories, seen.shape[1])
            users = model.recalculate_user(np.arange(len(histories)), asked)
            return np.asarray(users @ model.item_factors.T, np.float32)

        return scores

    return fit


GRID: Mapping[str, Mapping[str, Fit]] = {
    "popularity": {"": popularity},
    "item_knn": {f"m={m}, shrink={s}": item_knn(m, s) for m, s in ((20, 10.0), (100, 10.0), (200, 50.0))},
    "ease": {f"lambda={value}": ease(value) for value in (50.0, 200.0, 500.0, 1000.0)},
    "als": {f"factors={f}, alpha={a}": als(f, a) for f, a in ((32, 1.0), (64, 2.0), (128, 5.0))},
}


def tuned(
    train: Sequence[History], validation: Cases, refit: Sequence[History], n_items: int
) -> dict[str, tuple[Scorer, str]]:
    """Each baseline with its best settings on `validation`, fitted again on `refit`; with the settings' name."""
    fitted: dict[str, tuple[Scorer, str]] = {}
    for name, settings in GRID.items():
        quality: dict[str, float] = {}
        for label, fit in settings.items() if len(settings) > 1 else ():
            scorer = fit(interactions(train, n_items))
            quality[label] = ndcg(next_item_ranks(scorer, validation), 10)
        best = max(quality, key=quality.__getitem__) if quality else next(iter(settings))
        fitted[name] = (settings[best](interactions(refit, n_items)), best)
    return fitted
