"""Private statistics of the inputs against the plain ones."""

import numpy as np
import pytest
import torch

from recsys.models.blocks import numeric_statistics
from training.privacy.randomness import SeededRandomness
from training.private.statistics import GRID, histogram, private_statistics


def features(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = (rng.random(n), rng.lognormal(5, 2, n), rng.normal(0, 50, n), rng.random(n))
    found = np.stack(columns, 1).astype(np.float32)
    found[rng.random(n) < 0.2, 1] = np.nan
    return found


@pytest.mark.parametrize("noise", [1e-6, 5.0])
def test_they_are_the_plain_ones_where_users_are_many(noise: float) -> None:
    x, users = features(20_000), np.arange(20_000)
    found = private_statistics(x, users, [0, 1, 2], 8, noise, SeededRandomness(0))
    mean, scale, edges = numeric_statistics(torch.from_numpy(x), 8)
    for private, plain, tolerance in zip(found, (mean, scale, edges), (0.15, 0.1, 0.3), strict=True):
        assert (private[:3] - plain[:3]).abs().median() < tolerance / 3
        inner = private[:3, 1:-1] - plain[:3, 1:-1] if private.dim() == 2 else private[:3] - plain[:3]
        assert inner.abs().max() < tolerance * (1 + plain[:3].abs().max())
        assert not private[3].any(), "a column that is not read is constant"
    assert (found[2].diff(dim=1) >= 0).all()


def test_a_user_weighs_the_same_however_many_rows_she_has() -> None:
    x = np.array([1.0] + [5.0] * 99, np.float32)
    users = np.array([0] + [1] * 99)
    _, owner, rows = np.unique(users, return_inverse=True, return_counts=True)
    counts = histogram(x, 1 / rows[owner])
    assert counts.sum() == pytest.approx(2.0)
    assert counts.max() == pytest.approx(1.0)


def test_noise_alone_says_nothing() -> None:
    x = features(20)
    mean, scale, edges = private_statistics(x, np.arange(20), [0, 1], 4, 1e3, SeededRandomness(0))
    assert not scale[:2].any() or float(scale[:2].max()) < 1.0
    assert mean.isfinite().all()
    assert edges.isfinite().all()


def test_the_grid_has_each_sign_and_nothing() -> None:
    assert (np.diff(GRID) > 0).all()
    assert 0.0 in GRID
