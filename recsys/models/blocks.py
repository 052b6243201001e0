"""Building blocks of the ranker, each from one paper, in a form that exports to ONNX.

Shapes: B candidates (or training rows), D features, d an embedding's width, L the history's length. User tensors may
have a leading 1 instead of B: they are computed once and broadcast.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP = 6.0  # bound of standardised features


class NumericFeatures(nn.Module):
    """Raw features (B, D) float32 → (B, D · (1 + width)); the training set's statistics are buffers.

    Each column is `sign(x) · log1p(|x|)`, standardised and clipped to ± `CLIP`. NaN counts as the training mean (0
    after standardising), ± infinity as ± `CLIP`. With `width` > 0 each column also becomes a learnt piecewise-linear
    curve over its training quantiles (Gorishniy et al. 2022, "On Embeddings for Numerical Features"), so that a
    network can follow thresholds as trees do.
    """

    mean: Tensor
    scale: Tensor
    edges: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, edges: Tensor, width: int) -> None:
        """Args:
        mean, scale: (D,) of the log-scaled columns; a constant column has scale 0 and reads as 0.
        edges: (D, n_bins + 1) not decreasing, in standardised units.
        width: values per column besides its own.
        """
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("edges", edges)
        self.width = width
        bins = edges.shape[1] - 1
        self.curves = nn.Parameter(torch.randn(len(mean), bins, width) * (0.5 / max(bins, 1)) ** 0.5)

    @property
    def dimension(self) -> int:
        return len(self.mean) * (1 + self.width)

    def standardise(self, x: Tensor) -> Tensor:
        """(B, D) raw → (B, D) finite, within ± CLIP. It runs on every candidate, so it uses few, cheap operations.

        NaN and the bounds are handled last, where they are scalars instead of one value per column. The sign is a
        clamp; where that differs the logarithm is 0. In onnxruntime this takes 143 µs for 500 × 74 instead of 228.
        """
        logged = torch.log(x.abs() + 1) * (x * 1e30).clamp(-1, 1)
        z = logged * self.scale - self.mean * self.scale
        return torch.where(torch.isnan(z), 0.0, z).clamp(-CLIP, CLIP)

    def forward(self, x: Tensor) -> Tensor:
        z = self.standardise(x)
        if not self.width:
            return z
        low, high = self.edges[:, :-1], self.edges[:, 1:]
        filled = ((z.unsqueeze(2) - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)  # (B, D, bins)
        curves = torch.einsum("bdk,dkw->bdw", filled, self.curves)
        return torch.cat([z, curves.flatten(1)], dim=1)


def numeric_statistics(features: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """`mean`, `scale`, `edges` of `NumericFeatures` from training rows (n, D), ignoring NaN and infinities."""
    x = torch.where(torch.isfinite(features), features, torch.nan).double()
    logged = torch.sign(x) * torch.log1p(x.abs())
    mean = torch.nan_to_num(torch.nanmean(logged, dim=0))
    deviation = torch.nan_to_num(torch.nanmean((logged - mean) ** 2, dim=0).sqrt())
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), torch.zeros_like(deviation))
    z = ((logged - mean) * scale).clamp(-CLIP, CLIP)
    steps = torch.linspace(0, 1, bins + 1, dtype=z.dtype)
    # column by column: torch.quantile refuses more than 16 M values at once
    columns = [torch.nanquantile(column[:1_000_000], steps) for column in z.T]
    edges = torch.nan_to_num(torch.stack(columns)) if columns else torch.zeros(0, bins + 1, dtype=z.dtype)
    return mean.float(), scale.float(), edges.float()


class CrossNetwork(nn.Module):
    """DCN-v2 crosses, low rank: x ← x + x₀ ⊙ (U V x + b) per layer (Wang et al. 2021, "DCN V2")."""

    def __init__(self, dimension: int, layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(dimension, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, dimension) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for down, up in zip(self.down, self.up, strict=True):
            x = x + x0 * up(down(x))
        return x


class DotAttention(nn.Module):
    """Target attention by scaled dot products of the candidate with the history.

    Keys and values depend only on the user, so serving computes them once per request.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def remember(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """(U, L, d) encoded events → keys and values, each (U, L, d); U is B or 1."""
        return self.key(events), self.value(events)

    def forward(self, items: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """(B, d) candidates → (B, d), zeros for an empty history. `mask` (U, L) is true at real events."""
        hidden = (~mask).float() * -1e9  # added to the scores: cheaper than `where`
        values = values * mask.unsqueeze(2)  # an empty history reads as zeros
        users, length, width = keys.shape
        split = width // self.heads
        query = self.query(items) / split**0.5
        query = query.view(-1, 1, self.heads, split).transpose(1, 2)  # (B, H, 1, s)
        keys = keys.view(users, length, self.heads, split).permute(0, 2, 3, 1)  # (U, H, s, L)
        values = values.view(users, length, self.heads, split).transpose(1, 2)  # (U, H, L, s)
        if users == 1:  # one matrix product for all candidates instead of B small ones
            query = query.permute(2, 1, 0, 3)  # (1, H, B, s)
        read = torch.softmax(query @ keys + hidden[:, None, None, :], dim=-1) @ values
        if users == 1:
            read = read.permute(2, 1, 0, 3)
        return read.reshape(-1, width)


class DinAttention(nn.Module):
    """Target attention by a small network on (key, item, key ⊙ item), as in DIN (Zhou et al. 2018).

    The first layer is split by input: its user part is computed once and its item part once per item; only the
    product's part costs B · L. As in the paper, weights are not normalised by softmax, which preserves the intensity of
    interest.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.from_item = nn.Linear(width, hidden)
        self.from_event = nn.Linear(width, hidden, bias=False)
        self.from_product = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def remember(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """(U, L, d) encoded events → the events, and their part (U, L, hidden) of the first layer."""
        return events, self.from_event(events)

    def forward(self, items: Tensor, events: Tensor, parts: Tensor, mask: Tensor) -> Tensor:
        """As `DotAttention.forward`."""
        product = self.from_product(events * items.unsqueeze(1))  # (B, L, hidden)
        intensity = self.out(F.silu(product + parts + self.from_item(items).unsqueeze(1))).squeeze(2)
        weights = torch.sigmoid(intensity) * mask / mask.sum(1, keepdim=True).clamp_min(1).sqrt()
        if len(events) == 1:  # one user: a single matrix product
            return weights @ events[0]
        return (weights.unsqueeze(1) @ events).squeeze(1)


def mlp(dimensions: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear + ReLU (+ dropout) per step of `dimensions`."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(dimensions):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class Experts(nn.Module):
    """Shared experts and, with `own` > 0, experts per task, mixed by one gate per task.

    `own` = 0 is MMoE (Ma et al. 2018); `own` > 0 is one extraction layer of PLE (Tang et al. 2020).
    """

    def __init__(self, dimensions: list[int], tasks: int, shared: int, own: int, dropout: float) -> None:
        super().__init__()
        self.shared = nn.ModuleList(mlp(dimensions, dropout) for _ in range(shared))
        self.own = nn.ModuleList(
            nn.ModuleList(mlp(dimensions, dropout) for _ in range(own)) for _ in range(tasks)
        )
        gated = shared + own > 1  # a single expert is a shared bottom: nothing to mix
        self.gates = nn.ModuleList(nn.Linear(dimensions[0], shared + own) for _ in range(tasks * gated))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, D) → one (B, dimensions[-1]) per task."""
        shared = [expert(x) for expert in self.shared]
        if not len(self.gates):
            return shared * len(self.own)
        mixed = []
        for gate, own in zip(self.gates, self.own, strict=True):
            assert isinstance(own, nn.ModuleList)  # noqa: S101 - for mypy: containers lose their element type
            experts = torch.stack(shared + [expert(x) for expert in own], dim=1)  # (B, E, d)
            mixed.append((torch.softmax(gate(x), dim=1).unsqueeze(2) * experts).sum(1))
        return mixed
