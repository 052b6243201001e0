"""A user tower without weights: a device computes its user's vector from the history and the shared item vectors.

All that is learnt is one unit vector per item. A vector's d values are split over heads. Each head sums the history's
slices with a half-life of its own, counted in events, and scales the sum to length 1: one head knows the newest item,
another the taste.
"""

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import Config


class PooledShape(Config):
    """Everything that determines the user's vector."""

    dim: int = Field(64, ge=8, description="d of items and users; a power of two.")
    half_lives: tuple[float, ...] = Field(
        (1.0, 4.0, 16.0, 1000.0), min_length=1, description="Of each head, in events."
    )
    scale: float = Field(12.0, gt=0, description="Length of a user's vector; items have length 1.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.dim & (self.dim - 1):
            raise ValueError(f"dim: {self.dim} is not a power of two")
        if self.dim % len(self.half_lives):
            raise ValueError(f"half_lives: {len(self.half_lives)} heads do not divide dim {self.dim}")
        if min(self.half_lives) <= 0:
            raise ValueError("half_lives: must be above 0")
        return self


class PooledTower(nn.Module):
    """The tower in `user_tower.onnx`, and in training. It has no parameters."""

    rates: Tensor

    def __init__(self, shape: PooledShape) -> None:
        super().__init__()
        self.heads = len(shape.half_lives)
        self.head_scale = shape.scale / self.heads**0.5
        self.register_buffer("rates", math.log(2) / torch.tensor(shape.half_lives))

    def forward(self, items: Tensor, types: Tensor, gaps: Tensor) -> Tensor:
        """items (B, L, d) float32; types and gaps (B, L) int64, zeros for padding → (B, d) float32; zeros for a user
        without a history."""
        real = ((types + gaps) > 0).unsqueeze(-1)
        length = items.shape[1]
        ages = torch.arange(length - 1, -1, -1, device=items.device)
        weights = torch.exp(-ages.unsqueeze(-1) * self.rates)
        return self.pooled(items * real, weights.expand(items.shape[0], 1, length, self.heads))[:, 0]

    def weights(self, ends: Tensor, length: int) -> Tensor:
        """What each event weighs in each head for a user vector of the events before `ends` (C, T) of a window of
        `length` events: (C, T, L, heads)."""
        ages = ends.unsqueeze(-1) - 1 - torch.arange(length)
        decayed = torch.exp(-ages.clamp_min(0).unsqueeze(-1) * self.rates)
        return decayed * (ages >= 0).unsqueeze(-1)

    def pooled(self, items: Tensor, weights: Tensor) -> Tensor:
        """items (C, L, d), zeros for padding; weights (C, T, L, heads) → user vectors (C, T, d)."""
        slices = items.reshape(*items.shape[:-1], self.heads, -1)
        sums = torch.einsum("ctlh,clhk->cthk", weights, slices)
        users: Tensor = F.normalize(sums, dim=-1) * self.head_scale
        return users.flatten(-2)
