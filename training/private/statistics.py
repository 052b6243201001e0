"""The statistics of the inputs that a model stores (`RankerData`), from one noisy histogram of each feature.

A user adds to each histogram the shares of her rows in its bins: at most 1 in all, whatever the number of rows. The
bins are fixed, so they say nothing of the data.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.models.blocks import CLIP
from training.privacy.accounting import Spend
from training.privacy.randomness import Randomness

# of log1p, up to 10¹²: fine where rates are, then by quarters
_POSITIVE = np.concatenate((np.geomspace(1e-3, 1.0, 30), np.arange(1.25, 28.25, 0.25)))
GRID = np.concatenate((-_POSITIVE[::-1], [0.0], _POSITIVE))
_BELIEVED = (
    5.0  # standard deviations of the noise; a bin below is empty: one that is not, far out, would be costly
)
Statistics = tuple[Tensor, Tensor, Tensor]  # mean (D,), scale (D,), edges (D, bins + 1)


def statistics_cost(noise_multiplier: float) -> Spend:
    """What `private_statistics` spends."""
    return Spend(noise_multiplier)


def private_statistics(
    features: NDArray[np.float32],
    users: NDArray[np.int64],
    read: Sequence[int],
    bins: int,
    noise_multiplier: float,
    randomness: Randomness,
) -> Statistics:
    """As `recsys.models.blocks.numeric_statistics`, of the columns `read`; any other is constant and reads as 0.

    Args:
        features: (n, D) raw. users: (n,) whose row it is.
    """
    _, owner, rows = np.unique(users, return_inverse=True, return_counts=True)
    shares = 1 / rows[owner]
    noise = noise_multiplier * len(read) ** 0.5  # the norm of one user's part: 1 in each histogram
    mean, scale = torch.zeros(features.shape[1]), torch.zeros(features.shape[1])
    edges = torch.zeros(features.shape[1], bins + 1)
    for column in read:
        counts = histogram(features[:, column], shares) + noise * randomness.normal(len(GRID))
        counts[counts < _BELIEVED * noise] = 0.0
        if counts.any():
            found = _summary(counts / counts.sum(), bins)
            mean[column], scale[column], edges[column] = found
    return mean, scale, edges


def histogram(column: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the weights of the rows whose logarithm is nearest to each point of `GRID`; NaN is left out."""
    known = np.isfinite(column)
    values = column[known].astype(np.float64)
    logged = np.sign(values) * np.log1p(np.abs(values))
    places = np.searchsorted((GRID[1:] + GRID[:-1]) / 2, logged)
    return np.bincount(places, weights[known], len(GRID)).astype(np.float64)


def _summary(shares: NDArray[np.float64], bins: int) -> tuple[float, float, Tensor]:
    mean = float(shares @ GRID)
    deviation = float(np.sqrt(shares @ (GRID - mean) ** 2))
    scale = 1 / deviation if deviation > 1e-6 else 0.0
    below = np.cumsum(shares)
    places = np.searchsorted(below, np.linspace(1e-6, 1 - 1e-6, bins + 1))
    edges = ((GRID[places] - mean) * scale).clip(-CLIP, CLIP)
    return mean, scale, torch.from_numpy(edges)
