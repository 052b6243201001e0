"""How popular items are, from one noisy sum: what a bundle lists, and where a private two-tower starts.

That some items are popular is most of what few steps with noise could learn. As one statistic it costs little.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.models.two_tower import TwoTower
from training.privacy.randomness import Randomness

_SPREAD, _COMMON = 0.25, 2.0  # of items by a standard deviation of log counts; of every event of a user


def private_counts(
    items: NDArray[np.int32], n_items: int, noise_multiplier: float, randomness: Randomness
) -> NDArray[np.float64]:
    """(n_items,) how much the users have of each item, at least 0.

    Args:
        items: (users, L) item numbers, of a user each once; 0: none. Each of her k items gets 1 / √k from her, so her
            part has a norm of 1.
    """
    users, places = np.nonzero(items)
    shares = (items > 0).sum(1)[users] ** -0.5
    counts = np.bincount(items[users, places] - 1, shares, n_items)
    return np.asarray(np.maximum(counts + noise_multiplier * randomness.normal(n_items), 0.0))


def start_from(model: TwoTower, counts: NDArray[np.float64]) -> None:
    """Let one direction be popularity: items have more or less of it, and all users some."""
    logs = torch.from_numpy(np.log1p(counts)).float()
    with torch.no_grad():
        spread = (logs - logs.mean()) / logs.std().clamp(min=1e-6)
        model.items.get_parameter("ids.weight")[1:, 0] = _SPREAD * spread
        model.user.types.weight[:, 0] = _COMMON
