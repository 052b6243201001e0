"""Recall baselines: popularity, item-kNN, EASE, implicit ALS. Each fit gives a `Scorer`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from recsys.metrics import ndcg
from training.two_tower.cooccurrence import interactions, item_neighbours
from training.two_tower.cooccurrence import popularity as decayed_popularity
from training.two_tower.ease import item_weights
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
    """EASE (Steck, 2019): every item's score is a linear function of the user's other items."""

    def fit(train: TrainingHistories) -> Scorer:
        weights = item_weights(train.seen, regularisation)
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


@dataclass(frozen=True)
class Baseline:
    """settings: named fits, of which validation chooses one. n_bytes(users, items): about what a fit takes.
    costly: with more items than this nothing is chosen, the first of the settings is fitted."""

    settings: Mapping[str, Fit]
    n_bytes: Callable[[int, int], int]
    costly: float = math.inf


_NEIGHBOURS, _FACTORS = 200, 128  # the most that the grid has
GRID: Mapping[str, Baseline] = {
    "popularity": Baseline(
        {
            "all time": popularity,
            **{f"half-life {days:g} days": recent_popularity(days) for days in (1.0, 7.0, 30.0)},
        },
        lambda users, items: 8 * items,
    ),
    "item_knn": Baseline(
        {f"m={m}, shrink={s}": item_knn(m, s) for m, s in ((20, 10.0), (100, 10.0), (_NEIGHBOURS, 50.0))},
        lambda users, items: 32 * _NEIGHBOURS * items,  # the table, its copy as a matrix, and their indices
    ),
    "ease": Baseline(
        {f"lambda={value}": ease(value) for value in (500.0, 50.0, 200.0, 1000.0)},
        lambda users, items: 4 * items**2,
        costly=20_000,  # one fit takes minutes
    ),
    "als": Baseline(
        {f"factors={f}, alpha={a}": als(f, a) for f, a in ((32, 1.0), (64, 2.0), (_FACTORS, 5.0))},
        lambda users, items: 8 * _FACTORS * (users + items),
    ),
}


class Tuned(NamedTuple):
    """A fitted baseline. `settings`: those of the best validation NDCG@10; without a scorer, why it is left out."""

    name: str
    scorer: Scorer | None
    settings: str


def tuned(
    train: Sequence[History],
    validation: Cases,
    refit: Sequence[History],
    n_items: int,
    memory_gib: float = math.inf,
) -> Iterator[Tuned]:
    """Each baseline, tuned on the validation cases and fitted on `refit`, one after another, so that only one is in
    memory; one that would take more than `memory_gib` is left out."""
    before, everything = TrainingHistories(train, n_items), TrainingHistories(refit, n_items)
    for name, baseline in GRID.items():
        needed = baseline.n_bytes(len(refit), n_items) / 2**30
        if needed > memory_gib:
            yield Tuned(
                name, None, f"{n_items:,} items take {needed:.1f} GiB; at most {memory_gib:.1f} are allowed"
            )
            continue
        chooses = len(validation) > 0 and n_items <= baseline.costly
        quality = {
            label: ndcg(next_item_ranks(fit(before), validation, n_items), 10)
            for label, fit in baseline.settings.items()
            if chooses
        }
        best = max(quality, key=quality.__getitem__) if quality else next(iter(baseline.settings))
        yield Tuned(name, baseline.settings[best](everything), best)
