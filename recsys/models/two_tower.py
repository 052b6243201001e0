"""The two-tower recall model: a transformer over the user's history and a vector per item, scored by dot product.

The item tower adds an id embedding to the mean of its attributes' embeddings. Training sometimes drops the id
(`id_dropout`), so an item added later has a usable vector from its attributes alone. The user tower reads the same item
vectors (tied), event types, gaps between events (`recsys.models.encoding`) and, with `profile`, the user's static
attributes, which are all that is known of a user without a history.
"""

import math
from collections.abc import Sequence
from typing import Self, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.contracts.types import Item
from recsys.models.attributes import PROFILE_BUCKETS, SLOTS, hash_attributes
from recsys.models.encoding import N_GAPS, N_TYPES
from recsys.models.transformer import Block, causal_mask


class TwoTowerShape(BaseModel):
    """Everything that determines the model's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: int = Field(64, ge=8, description="d of both towers and of the index.")
    blocks: int = Field(2, ge=1, description="Transformer blocks of the user tower.")
    heads: int = Field(2, ge=1, description="Attention heads; divides `dim`.")
    hidden: int = Field(128, ge=8, description="Width of the SwiGLU layer.")
    max_distance: int = Field(200, ge=1, description="Events further back share the last position bias.")
    attribute_buckets: int = Field(4096, ge=1, description="Rows of the hashed attribute table.")
    dropout: float = Field(0.2, ge=0, lt=1, description="On the inputs and on both outputs of a block.")
    id_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of items trained without id, users without profile."
    )
    profile: bool = Field(False, description="Also read the user's static attributes.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide dim {self.dim}")
        return self


def id_scale(shape: TwoTowerShape) -> float:
    """Standard deviation of a new embedding's values; its vectors have a length of about 1/4."""
    return float(shape.dim**-0.5 / 4)


class ItemTower(nn.Module):
    """Item number → unit vector (d,): id embedding + mean of attribute embeddings, normalised."""

    attributes: Tensor

    def __init__(self, shape: TwoTowerShape, items: Sequence[Item], ids: nn.Module | None = None) -> None:
        """`ids`: another table of 1 + n_items rows, row 0 for padding; the caller initialises it."""
        super().__init__()
        self.id_dropout = shape.id_dropout
        self.ids = nn.Embedding(1 + len(items), shape.dim) if ids is None else ids
        self.words = nn.Embedding(1 + shape.attribute_buckets, shape.dim, padding_idx=0)
        slots = np.zeros((1 + len(items), SLOTS), np.int64)
        slots[1:] = hash_attributes(items, shape.attribute_buckets)
        self.register_buffer("attributes", torch.from_numpy(slots), persistent=False)
        for table in (self.ids, self.words):
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=id_scale(shape))
        with torch.no_grad():
            self.words.weight[0].zero_()

    def all_vectors(self) -> Tensor:
        """(1 + n_items, d); row 0 is the padding item's."""
        return self._vectors(cast(Tensor, self.ids.weight), self.attributes)

    def forward(self, numbers: Tensor) -> Tensor:
        """(…,) int64 item numbers → (…, d)."""
        return self._vectors(self.ids(numbers), self.attributes[numbers])

    def _vectors(self, ids: Tensor, slots: Tensor) -> Tensor:
        if self.training and self.id_dropout > 0:
            remaining = torch.rand(ids.shape[:-1], device=ids.device) >= self.id_dropout
            ids = ids * remaining.unsqueeze(-1)
        words = F.embedding_bag(slots.flatten(0, -2), self.words.weight, mode="mean", padding_idx=0)
        return F.normalize(ids + words.view_as(ids), dim=-1)


class ItemTable:
    """An item tower's vectors, computed once: the same interface for catalogues that fit in one matrix."""

    def __init__(self, tower: ItemTower) -> None:
        self._vectors = tower.all_vectors()

    def all_vectors(self) -> Tensor:
        return self._vectors

    def __call__(self, numbers: Tensor) -> Tensor:
        return F.embedding(numbers, self._vectors)


Items = ItemTower | ItemTable


class UserTower(nn.Module):
    """History → one vector per position: what the user may want next at that position."""

    def __init__(self, shape: TwoTowerShape) -> None:
        super().__init__()
        self.types = nn.Embedding(N_TYPES, shape.dim)
        self.gaps = nn.Embedding(N_GAPS, shape.dim)
        for table in (self.types, self.gaps):
            nn.init.zeros_(table.weight)
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.heads, shape.hidden, shape.max_distance, shape.dropout)
            for _ in range(shape.blocks)
        )
        self.norm = nn.RMSNorm(shape.dim, eps=1e-6)
        self.dropout = nn.Dropout(shape.dropout)
        self.profile_dropout = shape.id_dropout
        self.profile = nn.Embedding(1 + PROFILE_BUCKETS, shape.dim, padding_idx=0) if shape.profile else None
        if self.profile is not None:
            nn.init.zeros_(self.profile.weight)
        # scores are cosines times its exponential, initially sqrt(d): scores of variance 1
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(shape.dim)))

    def forward(
        self,
        item_vectors: Tensor,
        history: Tensor,
        types: Tensor,
        gaps: Tensor,
        profile: Tensor | None = None,
        newest_only: bool = False,
    ) -> Tensor:
        """item_vectors (B, L, d) of `history` (B, L), with types and gaps (B, L) → (B, L, d).

        profile: (B, PROFILE_SLOTS) rows of the users' attribute table (`recsys.models.attributes`).
        newest_only: (B, 1, d), the last position; the last block computes no other.
        """
        x = self._events(item_vectors, types, gaps, profile)
        mask = causal_mask(history)
        *earlier, last = cast(list[Block], list(self.blocks))
        for block in earlier:
            x = block(x, mask)
        x = last.newest(x, mask) if newest_only else last(x, mask)
        return F.normalize(self.norm(x), dim=-1) * self.log_scale.exp()

    def _events(self, item_vectors: Tensor, types: Tensor, gaps: Tensor, profile: Tensor | None) -> Tensor:
        x = item_vectors * item_vectors.shape[-1] ** 0.5 + self.types(types) + self.gaps(gaps)
        if self.profile is not None and profile is not None:
            x = x + self._profile(profile)[:, None]
        return cast(Tensor, self.dropout(x))

    def _profile(self, rows: Tensor) -> Tensor:
        """(B, PROFILE_SLOTS) → (B, d), the mean of the known attributes."""
        table = cast(nn.Embedding, self.profile)
        if self.training and self.profile_dropout > 0:
            rows = rows * (torch.rand(len(rows), 1, device=rows.device) >= self.profile_dropout)
        return F.embedding_bag(rows, table.weight, mode="mean", padding_idx=0)


class TwoTower(nn.Module):
    """Both towers. Score of user u and item i: dot product of their vectors, a scaled cosine."""

    def __init__(self, shape: TwoTowerShape, items: Sequence[Item], ids: nn.Module | None = None) -> None:
        """`items`: the item table; item i has number i + 1. `ids`: as in `ItemTower`."""
        super().__init__()
        self.items = ItemTower(shape, items, ids)
        self.user = UserTower(shape)

    def forward(
        self,
        history: Tensor,
        types: Tensor,
        gaps: Tensor,
        profile: Tensor | None = None,
        items: Items | None = None,
    ) -> Tensor:
        """(B, L) each, profile (B, PROFILE_SLOTS) → user vectors (B, L, d), one per position.

        items: look up item vectors there instead.
        """
        vectors = (items or self.items)(history)
        return cast(Tensor, self.user(vectors, history, types, gaps, profile))


class ServedUserTower(nn.Module):
    """The module in `user_tower.onnx`: it takes item vectors, so the catalogue is not in the file, and returns only the
    newest position."""

    padding: Tensor

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.user = model.user
        # of padding, which a user without a history has in the newest position, too; padding arrives as zeros
        self.register_buffer("padding", model.items.all_vectors()[0].detach().clone())

    @property
    def takes_profile(self) -> bool:
        return self.user.profile is not None

    def forward(self, items: Tensor, types: Tensor, gaps: Tensor, profile: Tensor | None = None) -> Tensor:
        """items (B, L, d) float32, zeros for padding; types and gaps (B, L) int64, profile (B, PROFILE_SLOTS) int64 →
        (B, d) float32."""
        real = items.abs().amax(dim=-1) != 0
        vectors = torch.where(real.unsqueeze(-1), items, self.padding)
        newest: Tensor = self.user(vectors, real.long(), types, gaps, profile, newest_only=True)
        return newest[:, 0]
