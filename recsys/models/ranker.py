"""The ranker: one multi-task model with configurable sizes.

    history ─ events ─ target attention ──┐
    item number → embedding + its fields ─┤
    features → normalised, curves ────────┼─ x ─┬─ crosses (DCN-v2) ─ experts, gate per task ─ towers ─┬─ heads
    categorical features → embeddings ────┤     └─ wide: linear in x, per-item bias ───────────────────┘
    position → embedding ─────────────────┘
    taste (optional) ─────────────────────────────────────────────────────────── added to log odds

The heads are `recsys.contracts.types.Head`. Conversion follows ESMM (Ma et al. 2018): the head is P(conversion |
click), and training fits P(click) · P(conversion | click) over all impressions, so nothing is learnt from clicked
rows alone. Item number 0, out of vocabulary, has its own embedding, trained by dropping a share of the item numbers.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from recsys.contracts.types import Head
from recsys.models.blocks import CrossNetwork, DinAttention, DotAttention, Experts, NumericFeatures, mlp
from recsys.models.compact import HashedTable, lookup
from recsys.models.encoding import N_GAPS, N_TYPES, OFFSET_LIMIT, OFFSETS

HEADS = tuple(Head)
Width = Annotated[int, Field(ge=1)]


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class RankerConfig:
    """Sizes of the ranker. Vocabularies and statistics are in `RankerData`."""

    width: Annotated[int, Field(ge=1, description="Of item embeddings, events and attention.")] = 32
    item_buckets: Annotated[
        int, Field(ge=0, description="Hashed item rows: the items share twice as many; 0: one row per item.")
    ] = 0
    attention: Annotated[
        Literal["dot", "din", "none"], Field(description="Of the candidate over the history.")
    ] = "dot"
    attention_heads: Annotated[int, Field(ge=1, description="Of the attention `dot`; divides `width`.")] = 2
    attention_hidden: Annotated[int, Field(ge=1, description="Width of the attention `din`.")] = 32
    curve_width: Annotated[
        int, Field(ge=0, description="Of each feature's curve; 0: standardised values alone.")
    ] = 2
    bins: Annotated[int, Field(ge=1, description="Pieces of a feature's curve.")] = 12
    category_width: Annotated[int, Field(ge=1, description="Of a categorical feature's embedding.")] = 4
    field_width: Annotated[int, Field(ge=1, description="Of an item field's embedding.")] = 8
    positions: Annotated[
        int, Field(ge=1, description="Positions with an embedding; later ones count as the last.")
    ] = 64
    position_width: Annotated[int, Field(ge=1, description="Of a position's embedding.")] = 4
    cross_layers: Annotated[int, Field(ge=0, description="Layers of crosses (DCN-v2).")] = 2
    cross_rank: Annotated[int, Field(ge=1, description="Rank of a cross's matrix.")] = 32
    shared_experts: Annotated[int, Field(ge=1, description="Experts that all heads share.")] = 3
    own_experts: Annotated[int, Field(ge=0, description="Experts of each head (PLE); 0: MMoE.")] = 0
    expert_layers: Annotated[
        tuple[Width, ...], Field(description="Widths of an expert; empty: the crosses alone feed the heads.")
    ] = (96, 48)
    tower_layers: Annotated[tuple[Width, ...], Field(description="Widths of each head's tower.")] = (24,)
    dropout: Annotated[float, Field(ge=0, lt=1, description="On the layers of experts and towers.")] = 0.1
    item_dropout: Annotated[
        float, Field(ge=0, le=1, description="Share of training rows whose item number is dropped to 0.")
    ] = 0.03
    offset: Annotated[
        bool, Field(description="Whether the last features are log odds of click and conversion (taste).")
    ] = False

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.attention == "dot" and self.width % self.attention_heads:
            raise ValueError(f"attention_heads: {self.attention_heads} does not divide width {self.width}")
        return self


@dataclass(frozen=True)
class RankerData:
    """What the model knows of the data set, stored in its weights.

    `mean`, `scale` (D,) and `edges` (D, bins + 1): `recsys.models.blocks.numeric_statistics`, over numeric columns.
    `categorical`: (column, size) of the feature columns with codes 0 … size - 1; any other value reads as 0.
    `fields`: (n_items + 1, n_fields) int64 codes of each item's fields (categories, creator); row 0 and code 0 are
    unknown. `field_sizes`: number of codes of each field.
    """

    n_items: int
    n_features: int
    mean: Tensor
    scale: Tensor
    edges: Tensor
    fields: Tensor
    field_sizes: tuple[int, ...]
    categorical: tuple[tuple[int, int], ...] = ()

    @property
    def numeric(self) -> list[int]:
        codes = {column for column, _ in self.categorical}
        return [column for column in range(self.n_features) if column not in codes]


class UserPart(NamedTuple):
    """What depends only on the user, computed once per request. U is B in training and 1 in serving."""

    keys: Tensor  # (U, L, …) the attention's memory
    values: Tensor  # (U, L, …)
    mask: Tensor  # (U, L) bool
    summary: Tensor  # (U, width) mean of the events


class RankerLogits(NamedTuple):
    """Each (B,). `dwell` is log1p seconds; the others are log odds; `conversion` is given a click."""

    click: Tensor
    conversion: Tensor
    like: Tensor
    dwell: Tensor


class Ranker(nn.Module):
    """See the module's diagram."""

    fields: Tensor
    numeric_columns: Tensor

    def __init__(self, config: RankerConfig, data: RankerData) -> None:
        super().__init__()
        c, self.config, self.data = config, config, data
        # one row per item: its vector, and its bias in each head
        row = c.width + len(HEADS)
        self.item = (
            HashedTable(c.item_buckets, row) if c.item_buckets else nn.Embedding(data.n_items + 1, row)
        )
        self.register_buffer("fields", data.fields)
        self.field = nn.ModuleList(nn.Embedding(size, c.field_width) for size in data.field_sizes)
        self.from_fields = (
            nn.Linear(c.field_width * len(data.field_sizes), c.width) if data.field_sizes else None
        )
        self.event_type = nn.Embedding(N_TYPES, c.width)
        self.event_gap = nn.Embedding(N_GAPS, c.width)
        self.attention: DotAttention | DinAttention | None = _attention(c)
        self.register_buffer("numeric_columns", torch.tensor(data.numeric, dtype=torch.int64))
        self.numeric = NumericFeatures(data.mean, data.scale, data.edges, c.curve_width)
        self.category = nn.ModuleList(nn.Embedding(size, c.category_width) for _, size in data.categorical)
        self.position = nn.Embedding(c.positions, c.position_width)
        dimension = self._input_width()
        self.cross = CrossNetwork(dimension, c.cross_layers, c.cross_rank)
        self.wide = nn.Linear(dimension, len(HEADS))
        self.experts: Experts | None = None
        last = dimension
        if c.expert_layers:
            deep = [dimension, *c.expert_layers]
            self.experts = Experts(deep, len(HEADS), c.shared_experts, c.own_experts, c.dropout)
            last = c.expert_layers[-1]
        self.towers = nn.ModuleList(
            nn.Sequential(mlp([last, *c.tower_layers]), nn.Linear([last, *c.tower_layers][-1], 1))
            for _ in HEADS
        )
        self._initialise()

    def _input_width(self) -> int:
        c = self.config
        from_item = c.width if self.attention is None else 3 * c.width
        return from_item + self.numeric.dimension + c.category_width * len(self.category) + c.position_width

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)

    def items(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Item numbers (…) → vectors (…, width), from the item's row and its fields, and biases (…, heads)."""
        numbers = in_vocabulary(numbers, self.data.n_items + 1)
        row: Tensor = self.item(numbers)
        vectors, bias = row[..., : self.config.width], row[..., self.config.width :]
        if self.from_fields is not None:
            codes = lookup(self.fields, numbers).long()
            vectors = vectors + self.from_fields(
                torch.cat([table(codes[..., i]) for i, table in enumerate(self.field)], dim=-1)
            )
        return vectors, bias

    def user(self, history: Tensor, types: Tensor, gaps: Tensor) -> UserPart:
        """(U, L) int64 each → the user's part."""
        mask = (history > 0) & (history <= self.data.n_items)
        events = (
            self._history_items(history)
            + self.event_type(in_vocabulary(types, N_TYPES))
            + self.event_gap(in_vocabulary(gaps, N_GAPS))
        ) * mask.unsqueeze(2)
        summary = events.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        keys, values = (events, events) if self.attention is None else self.attention.remember(events)
        return UserPart(keys, values, mask, summary)

    def _history_items(self, history: Tensor) -> Tensor:
        """The vectors of a batch of histories. With more events than items, each item is computed once."""
        rows = len(self.fields)  # private training has few: those of one user
        if not self.training or history.numel() < rows:
            return self.items(history)[0]
        table, _ = self.items(torch.arange(rows, device=history.device))
        return F.embedding(in_vocabulary(history, rows), table)

    def inputs(self, user: UserPart, vectors: Tensor, features: Tensor, position: Tensor) -> Tensor:
        """The input of crosses and experts, (B, width of all parts)."""
        parts = [vectors]
        if self.attention is not None:
            attended = self.attention(vectors, user.keys, user.values, user.mask)
            parts += [attended, vectors * user.summary]
        # without codes there is no column selection: exported, it would be two transpositions
        parts.append(self.numeric(features[:, self.numeric_columns] if self.data.categorical else features))
        for (column, size), table in zip(self.data.categorical, self.category, strict=True):
            parts.append(table(code_of(features[:, column], size)))
        parts.append(self.position(position.clamp(0, self.config.positions - 1)))
        return torch.cat(parts, dim=1)

    def score(self, user: UserPart, items: Tensor, features: Tensor, position: Tensor) -> RankerLogits:
        """Candidates of one user (U = 1), or row i with user i.

        Args:
            items: (B,) int64 numbers, 0 unknown.
            features: (B, D) float32 raw.
            position: (B,) int64 from 0; serving sends 0 for every candidate.
        """
        vectors, bias = self.items(items)
        x = self.inputs(user, vectors, features, position)
        crossed = self.cross(x) if self.config.cross_layers else x
        deep = [crossed] * len(HEADS) if self.experts is None else self.experts(crossed)
        linear = self.wide(x) + bias
        logits = RankerLogits(
            *(
                tower(task).squeeze(1) + linear[:, i]
                for i, (tower, task) in enumerate(zip(self.towers, deep, strict=True))
            )
        )
        if not self.config.offset:
            return logits
        click, conversion = bounded(features[:, -OFFSETS:]).unbind(1)
        return logits._replace(click=logits.click + click, conversion=logits.conversion + conversion)

    def forward(
        self, history: Tensor, types: Tensor, gaps: Tensor, items: Tensor, features: Tensor, position: Tensor
    ) -> RankerLogits:
        """History arrays (U, L); the rest as `score`."""
        if self.training and self.config.item_dropout:
            items = items * (torch.rand(items.shape, device=items.device) >= self.config.item_dropout)
        return self.score(self.user(history, types, gaps), items, features, position)


class ServedRanker(nn.Module):
    """The ranker with serving's outputs: probabilities, and dwell as log1p seconds ≥ 0."""

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(
        self, history: Tensor, types: Tensor, gaps: Tensor, items: Tensor, features: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of `HEADS`, each (N,) float32."""
        logits = self.ranker(history, types, gaps, items, features, position)
        return (
            torch.sigmoid(logits.click),
            torch.sigmoid(logits.conversion),
            torch.sigmoid(logits.like),
            F.relu(logits.dwell),
        )


def bounded(offset: Tensor) -> Tensor:
    """Log odds within ± `OFFSET_LIMIT`; NaN is 0."""
    return torch.where(torch.isnan(offset), 0.0, offset).clamp(-OFFSET_LIMIT, OFFSET_LIMIT)


def in_vocabulary(numbers: Tensor, size: int) -> Tensor:
    """Numbers outside 0 … size - 1 become 0 (unknown)."""
    return torch.where((numbers >= 0) & (numbers < size), numbers, torch.zeros_like(numbers))


def code_of(column: Tensor, size: int) -> Tensor:
    """A float column of codes → int64 codes; NaN, infinities and codes beyond the vocabulary become 0."""
    valid = (column > -0.5) & (column < size - 0.5)
    return torch.where(valid, column, torch.zeros_like(column)).round().long()


def _attention(config: RankerConfig) -> DotAttention | DinAttention | None:
    if config.attention == "none":
        return None
    if config.attention == "din":
        return DinAttention(config.width, config.attention_hidden)
    return DotAttention(config.width, config.attention_heads)
