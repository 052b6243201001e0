"""The linear part of the two-tower: EASE cut to rank r, and how much its scores count.

A transformer learns the order of events, and needs many of them; EASE, a ridge regression in closed form, knows no
order and needs few. Their sum is better than each (docs/recall.md). The weight is chosen on held-out events, as is the
number of epochs; 0 is among the choices, and then there is no linear part.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from recsys.metrics import hit_rate, ndcg
from recsys.recall.item_vectors import LinearPart
from training.two_tower.config import TwoTowerConfig
from training.two_tower.cooccurrence import interactions
from training.two_tower.data import TrainingData
from training.two_tower.ease import item_weights
from training.two_tower.retrieval import Cases, Scorer, scored, target_ranks
from training.two_tower.sequences import History

METRICS = ("hr@10", "ndcg@10")  # of the held-out events
WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
REGULARISATIONS, FEW_ITEMS = (200.0, 50.0, 500.0), 10_000  # of more items, the first alone
_MORE, _PASSES = 16, 4  # columns and passes of the randomised decomposition: values agree to a thousandth


def has_linear_part(config: TwoTowerConfig, data: TrainingData) -> bool:
    """Whether a training has one, given its weight."""
    return bool(config.linear_rank and config.linear_weight and data.items)


def linear_part(config: TwoTowerConfig, data: TrainingData) -> LinearPart | None:
    """Fitted to what is trained on, with the configuration's weight; None without one."""
    if not has_linear_part(config, data):
        return None
    regularisation = config.linear_regularisation or REGULARISATIONS[0]
    return _fitted(config, data, [regularisation])[regularisation].weighed(config.linear_weight or 0.0)


class Weighed(NamedTuple):
    """`metrics`: `METRICS` of the held-out events with the linear part; empty without a fit."""

    config: TwoTowerConfig
    linear: LinearPart | None
    metrics: dict[str, float]


def with_weight(config: TwoTowerConfig, data: TrainingData, tower: Scorer, held_out: Cases) -> Weighed:
    """With the λ and the weight that are best for `tower`, unless the configuration has them."""
    weights = WEIGHTS if config.linear_weight is None else (config.linear_weight,)
    if not has_linear_part(config.replace(linear_weight=max(weights)), data):
        return Weighed(config, None, {})
    fitted = _fitted(config, data, _regularisations(config, data))
    scorers = {value: linear_scorer(linear, config.max_length) for value, linear in fitted.items()}
    chosen = choose(tower, scorers, held_out, len(data.items), weights)
    return Weighed(
        config.replace(linear_regularisation=chosen.regularisation, linear_weight=chosen.weight),
        fitted[chosen.regularisation].weighed(chosen.weight) if chosen.weight else None,
        dict(zip(METRICS, (chosen.hr10, chosen.ndcg10), strict=True)),
    )


def _regularisations(config: TwoTowerConfig, data: TrainingData) -> Sequence[float]:
    if config.linear_regularisation is not None:
        return (config.linear_regularisation,)
    return REGULARISATIONS if len(data.items) <= FEW_ITEMS else REGULARISATIONS[:1]


def _fitted(
    config: TwoTowerConfig, data: TrainingData, regularisations: Sequence[float]
) -> dict[float, LinearPart]:
    """By λ; one matrix of the catalogue's size is in memory at a time."""
    histories = [history.before(data.cut(history)) for history in data.files.read()]
    seen = interactions(histories, len(data.items))
    return {
        value: fit_linear(seen, config.linear_rank, value, config.seed, config.linear_items)
        for value in regularisations
    }


def fit_linear(
    seen: sparse.csr_matrix, rank: int, regularisation: float, seed: int, most: int = 20_000
) -> LinearPart:
    """EASE's weights B ≈ U S Vᵀ, the best of this rank (Halko et al., 2011): the history's vectors are U S, the
    candidates' V.

    Of m items it takes 4 m² bytes and m³ multiplications.

    Args:
        seen: (n_users, n_items) of 0 and 1.
        most: the m most popular items have a linear part, all others zeros.
        regularisation: λ of EASE; larger where float32 needs that.
        seed: of the decomposition's random start.
    """
    popular = np.argsort(-np.asarray(seen.sum(0)).ravel(), kind="stable")[:most]
    popular.sort()
    weights = torch.from_numpy(_weights(seen[:, popular], regularisation))
    rank = min(rank, len(popular))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(weights, min(rank + _MORE, len(popular)), _PASSES)
    parts = np.zeros((2, seen.shape[1], rank), np.float32)
    parts[0, popular], parts[1, popular] = (left * values)[:, :rank].numpy(), right[:, :rank].numpy()
    return LinearPart(*parts)


def linear_scorer(linear: LinearPart, max_length: int) -> Scorer:
    """Scores of the linear part alone, from the newest events of each history, as they are served."""

    def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        longest = max(1, *(min(len(h.numbers), max_length) for h in histories))
        numbers = np.zeros((len(histories), longest), np.int64)
        for row, history in zip(numbers, histories, strict=True):
            newest = history.numbers[-longest:]
            row[: len(newest)] = newest
        return linear.of(numbers) @ linear.candidates.T

    return scores


def sum_of(one: Scorer, other: Scorer) -> Scorer:
    return lambda histories, now_ms: one(histories, now_ms) + other(histories, now_ms)


def _weights(seen: sparse.csr_matrix, regularisation: float) -> NDArray[np.float32]:
    """With ten times the λ, as often as float32 needs it to invert the matrix."""
    while True:
        with suppress(np.linalg.LinAlgError):
            return item_weights(seen, regularisation)
        regularisation *= 10


class Chosen(NamedTuple):
    """λ and weight with the best NDCG@10 of the held-out events, the first of equal ones, and the metrics with them."""

    regularisation: float
    weight: float
    hr10: float
    ndcg10: float


def choose(
    tower: Scorer,
    linear: Mapping[float, Scorer],
    held_out: Cases,
    n_items: int,
    weights: Sequence[float] = WEIGHTS,
) -> Chosen:
    """`linear`: scorers by λ."""
    ranks = {pair: np.zeros(len(held_out), np.int64) for pair in product(linear, weights)}
    for places, scores in scored(tower, held_out, n_items):
        asked = [held_out.histories[p] for p in places], [held_out.now_ms[p] for p in places]
        wanted = [held_out.targets[p][:1] for p in places]
        added = {value: scorer(*asked) for value, scorer in linear.items()}
        for (value, weight), found in ranks.items():
            found[places] = target_ranks(scores + np.float32(weight) * added[value], wanted)[:, 0]
    chosen = [Chosen(*pair, hit_rate(found, 10), ndcg(found, 10)) for pair, found in ranks.items()]
    return max(chosen, key=lambda choice: choice.ndcg10)
