"""The two-tower recall model: a transformer over the user's history, and a vector an item; their dot product scores.

The item tower adds an id embedding to the mean of its attributes' embeddings. In training the id is sometimes
left out (`id_dropout`), so an item that came after training has a usable vector from its attributes alone. The
user tower reads the same item vectors (tied), the event types and the gaps between events (`recsys.models.encoding`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.transformer import Block, causal_mask
from recsys.models.encoding import N_GAPS, N_TYPES
from recsys.types import Item


class TwoTowerShape(BaseModel):
    """Everything that fixes the model's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=8, description="d of both towers and of the index.")
    blocks: int = Field(2, ge=1, description="Transformer blocks of the user tower.")
    heads: int = Field(2, ge=1, description="Attention heads; divides `dim`.")
    hidden: int = Field(128, ge=8, description="Width of the SwiGLU layer.")
    max_distance: int = Field(200, ge=1, description="Events further back share one position bias.")
    attribute_buckets: int = Field(4096, ge=1, description="Rows of the hashed attribute table.")
    dropout: float = Field(0.2, ge=0, lt=1, description="On the inputs and on both outputs of a block.")
    id_dropout: float = Field(0.1, ge=0, le=1, description="How often an item is trained without its id.")
    normalised: bool = Field(
        False, description="Cosine with a learnt scale instead of the plain dot product."
    )


def attribute_texts(item: Item) -> Iterator[str]:
    """What is known of an item, as words: categories, creator, attributes, the words of its title."""
    yield from (f"category={c}" for c in item.categories)
    if item.creator:
        yield f"creator={item.creator}"
    yield from (f"{name}={value}" for name, value in sorted(item.attributes.items()))
    yield from (f"title={word}" for word in item.title.lower().split() if len(word) > 2)


def hash_attributes(items: Sequence[Item], buckets: int, slots: int = 16) -> NDArray[np.int64]:
    """(1 + n_items, slots) int64 rows of the attribute table, 0 for none; row 0 is the padding item's.

    A stable hash (BLAKE2b), so that an item added later lands on the rows that were trained. An item with more
    than `slots` attributes keeps the first ones.
    """
    table = np.zeros((1 + len(items), slots), np.int64)
    for row, item in enumerate(items, start=1):
        for slot, text in zip(range(slots), attribute_texts(item), strict=False):
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            table[row, slot] = 1 + int.from_bytes(digest, "little") % buckets
    return table


class ItemTower(nn.Module):
    """Item number → vector (d,): id embedding + mean of attribute embeddings."""

    attributes: Tensor

    def __init__(self, shape: TwoTowerShape, attributes: NDArray[np.int64]) -> None:
        super().__init__()
        self.id_dropout = shape.id_dropout
        self.normalised = shape.normalised
        self.ids = nn.Embedding(len(attributes), shape.dim)
        self.words = nn.Embedding(1 + shape.attribute_buckets, shape.dim)
        self.register_buffer("attributes", torch.from_numpy(attributes), persistent=False)
        for table in (self.ids, self.words):
            nn.init.normal_(table.weight, std=shape.dim**-0.5 / 4)
        with torch.no_grad():
            self.words.weight[0].zero_()

    def all_vectors(self) -> Tensor:
        """(1 + n_items, d), row 0 the padding item's (the start of a history)."""
        return self._vectors(self.ids.weight, self.attributes)

    def forward(self, numbers: Tensor) -> Tensor:
        """(…,) int64 item numbers → (…, d)."""
        return self._vectors(self.ids(numbers), self.attributes[numbers])

    def _vectors(self, ids: Tensor, slots: Tensor) -> Tensor:
        bags = F.embedding_bag(slots.flatten(0, -2), self.words.weight, mode="mean", padding_idx=0)
        if self.training and self.id_dropout > 0:
            kept = torch.rand(ids.shape[:-1], device=ids.device) >= self.id_dropout
            ids = ids * kept.unsqueeze(-1)
        vectors = ids + bags.view_as(ids)
        return F.normalize(vectors, dim=-1) if self.normalised else vectors


class ItemTable:
    """An item tower's vectors computed once: the same interface, for catalogues that fit in one matrix."""

    def __init__(self, tower: ItemTower) -> None:
        self._vectors = tower.all_vectors()

    def all_vectors(self) -> Tensor:
        return self._vectors

    def __call__(self, numbers: Tensor) -> Tensor:
        return F.embedding(numbers, self._vectors)


Items = ItemTower | ItemTable


class UserTower(nn.Module):
    """History → one vector a position: what the user may want next, as of that position."""

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
        self.scale = nn.Parameter(torch.tensor(2.5)) if shape.normalised else None

    def forward(self, item_vectors: Tensor, history: Tensor, types: Tensor, gaps: Tensor) -> Tensor:
        """item_vectors (B, L, d) of `history` (B, L), with types and gaps (B, L) → (B, L, d)."""
        x = item_vectors * item_vectors.shape[-1] ** 0.5 + self.types(types) + self.gaps(gaps)
        x = self.dropout(x)
        mask = causal_mask(history)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return F.normalize(x, dim=-1) * self.scale.exp() if self.scale is not None else x


class TwoTower(nn.Module):
    """Both towers. Score of user u and item i: dot product of their vectors."""

    def __init__(self, shape: TwoTowerShape, attributes: NDArray[np.int64]) -> None:
        super().__init__()
        self.items = ItemTower(shape, attributes)
        self.user = UserTower(shape)

    def forward(self, history: Tensor, types: Tensor, gaps: Tensor, items: Items | None = None) -> Tensor:
        """(B, L) each → user vectors (B, L, d), one a position. `items`: look vectors up there instead."""
        vectors = (items or self.items)(history)
        return cast(Tensor, self.user(vectors, history, types, gaps))


class ServedUserTower(nn.Module):
    """What `user_tower.onnx` holds: item vectors frozen in a table, only the newest position is returned."""

    table: Tensor

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.user = model.user
        self.register_buffer("table", model.items.all_vectors().detach().clone())

    def forward(self, history: Tensor, types: Tensor, gaps: Tensor) -> Tensor:
        """(B, L) int64 each → (B, d) float32."""
        return cast(Tensor, self.user(self.table[history], history, types, gaps)[:, -1])
