"""The server's optimiser: Adam on the mean update of a round (Reddi et al. 2021, "FedAdam"), on the unit sphere.

Each direction of the public basis has moments of its own, which move in the rounds that have the direction. A device
that follows the rounds repeats the same steps on its own copy, so it needs each round's mean update and never the model
itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.federated.streams import Stream
from training.federated.subspace import Directions

DECAYS = (0.9, 0.99)  # of the moments


@dataclass
class SphereAdam:
    """The model: unit vectors (n_items, d) float32; by direction, Adam's moments (n_items, d) and steps (d,)."""

    vectors: NDArray[np.float32]
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    steps: NDArray[np.int64]

    @classmethod
    def new(cls, seed: int, n_items: int, dim: int) -> "SphereAdam":
        """Random unit vectors from a public seed: the first model costs no download."""
        vectors = Stream.MODEL.rng(seed).standard_normal((n_items, dim), np.float32)
        zeros = np.zeros((n_items, dim), np.float32)
        return cls(_units(vectors), zeros, zeros.copy(), np.zeros(dim, np.int64))

    def step(self, gradient: NDArray[np.float32], directions: Directions, rate: float) -> None:
        """Move against `gradient` (n_items, r), the coefficients in the round's directions."""
        at = directions.columns
        a, b = (np.float32(decay) for decay in DECAYS)
        self.steps[at] += 1
        self.first[:, at] = a * self.first[:, at] + (1 - a) * gradient
        self.second[:, at] = b * self.second[:, at] + (1 - b) * gradient * gradient
        mean = self.first[:, at] / (1 - a ** self.steps[at]).astype(np.float32)
        spread = np.sqrt(self.second[:, at] / (1 - b ** self.steps[at]).astype(np.float32))
        moved = np.float32(rate) * mean / (spread + np.float32(1e-8))
        self.vectors = _units(np.asarray(self.vectors - moved @ directions.basis.T, np.float32))


def _units(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
