"""The same model trained with all histories in one place: what federated training is compared with."""

from collections.abc import Callable

import numpy as np
import torch

from training.federated.adam import SphereAdam
from training.federated.config import FederatedRecipe
from training.federated.gradient import drawn_items, item_gradient
from training.federated.population import Population
from training.federated.streams import Stream
from training.federated.subspace import directions_of
from training.federated.tower import PooledTower
from training.optim import warmup_cosine


def fit_central(
    config: FederatedRecipe,
    population: Population,
    n_items: int,
    steps: int,
    users: int,
    learning_rate: float,
    progress: Callable[[int], None] = lambda step: None,
) -> SphereAdam:
    """Adam on exact gradients, `users` of a shuffled pass over all users per step: nothing is clipped, projected or
    rounded. With as many users as a cohort, each step is a round of federated averaging with one local step, whose
    payload is the whole model."""
    tower = PooledTower(config.shape)
    every = directions_of(config.seed, 0, config.shape.dim, config.shape.dim)
    model = SphereAdam.new(config.seed, n_items, config.shape.dim)
    rng = Stream.CENTRAL.rng(config.seed)
    order = np.zeros(0, np.int64)
    for step in range(steps):
        if len(order) < users:
            order = np.concatenate([order, rng.permutation(len(population))])
        clients, order = order[:users], order[users:]
        windows = population.windows(clients, config.cohorts.length, config.cohorts.targets, rng)
        table = torch.from_numpy(np.pad(model.vectors, ((1, 0), (0, 0))))
        negatives = drawn_items(users, n_items, config.cohorts.negatives, rng)
        total = item_gradient(tower, table, windows, negatives).total().numpy()
        share = warmup_cosine(step, steps // 20, step / steps)
        mean = np.asarray(total @ every.basis / users, np.float32)
        model.step(mean, every, learning_rate * share)
        progress(step + 1)
    return model
