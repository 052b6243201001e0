"""The linear part of the two-tower: EASE cut to rank r, and how much its scores count.

A transformer learns the order of events, and needs many of them; EASE, a ridge regression in closed form, knows no
order and needs few. Their sum is better than each (docs/recall.md). The weight is chosen on held-out events, as is the
number of epochs; 0 is among the choices, and then there is no linear part.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, cast

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
    return (
        _fitted(config, data).weighed(config.linear_weight or 0.0) if has_linear_part(config, data) else None
    )


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
    found: Weighed | None = None
    for regularisation in _regularisations(config, data):
        tried = config.replace(linear_regularisation=regularisation)
        linear = _fitted(tried, data)
        scorer = linear_scorer(linear, config.max_length)
        chosen = choose_weight(tower, scorer, held_out, len(data.items), weights)
        if found is None or chosen.ndcg10 > found.metrics[METRICS[1]]:
            found = Weighed(
                tried.replace(linear_weight=chosen.weight),
                linear.weighed(chosen.weight) if chosen.weight else None,
                dict(zip(METRICS, (chosen.hr10, chosen.ndcg10), strict=True)),
            )
    return cast("Weighed", found)


def _regularisations(config: TwoTowerConfig, data: TrainingData) -> Sequence[float]:
    if config.linear_regularisation is not None:
        return (config.linear_regularisation,)
    return REGULARISATIONS if len(data.items) <= FEW_ITEMS else REGULARISATIONS[:1]


def _fitted(config: TwoTowerConfig, data: TrainingData) -> LinearPart:
    histories = (history.before(data.cut(history)) for history in data.files.read())
    return fit_linear(
        histories,
        len(data.items),
        config.linear_rank,
        config.linear_regularisation or REGULARISATIONS[0],
        config.seed,
        config.linear_items,
    )


def fit_linear(
    histories: Iterable[History],
    n_items: int,
    rank: int,
    regularisation: float,
    seed: int,
    most: int = 20_000,
) -> LinearPart:
    """EASE's weights B ≈ U S Vᵀ, the best of this rank (Halko et al., 2011): the history's vectors are U S, the
    candidates' V.

    Of m items it takes 4 m² bytes and m³ multiplications.

    Args:
        most: the m most popular items have a linear part, all others zeros.
        regularisation: λ of EASE; larger where float32 needs that.
        seed: of the decomposition's random start.
    """
    seen = interactions(list(histories), n_items)
    popular = np.argsort(-np.asarray(seen.sum(0)).ravel(), kind="stable")[:most]
    popular.sort()
    weights = torch.from_numpy(_weights(seen[:, popular], regularisation))
    rank = min(rank, len(popular))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(weights, min(rank + _MORE, len(popular)), _PASSES)
    parts = np.zeros((2, n_items, rank), np.float32)
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
    """The weight with the best NDCG@10 of the held-out events, the least of equal ones; `hr10` and `ndcg10` with it."""

    weight: float
    hr10: float
    ndcg10: float


def choose_weight(
    tower: Scorer, linear: Scorer, held_out: Cases, n_items: int, weights: Sequence[float] = WEIGHTS
) -> Chosen:
    """Both score the same cases."""
    ranks = {weight: np.zeros(len(held_out), np.int64) for weight in weights}
    for places, scores in scored(tower, held_out, n_items):
        added = linear([held_out.histories[p] for p in places], [held_out.now_ms[p] for p in places])
        wanted = [held_out.targets[p][:1] for p in places]
        for weight, found in ranks.items():
            found[places] = target_ranks(scores + np.float32(weight) * added, wanted)[:, 0]
    chosen = [Chosen(weight, hit_rate(found, 10), ndcg(found, 10)) for weight, found in ranks.items()]
    return max(chosen, key=lambda choice: (choice.ndcg10, -choice.weight))
