"""The transformer of the user tower: RMS norm, causal attention with recency positions, SwiGLU."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e9  # additive; finite, so that no row of the softmax is empty


class RecencyAttention(nn.Module):
    """Multi-head attention with one learnt bias per head and distance in events.

    With distances instead of absolute positions, a truncated history means the same. Distances beyond `max_distance`
    share the last bias (Raffel et al., 2020, without the logarithmic buckets).
    """

    def __init__(self, dim: int, heads: int, max_distance: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.recency = nn.Parameter(torch.zeros(heads, max_distance))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, d); mask (B, 1, L, L) additive: 0 where row attends to column, else `MASKED`."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        at = torch.arange(length, device=x.device)
        distance = (at[:, None] - at[None, :]).clamp(0, self.recency.shape[1] - 1)
        return self._attend(q, k, v, self.recency[:, distance] + mask)  # (B, heads, L, L)

    def newest(self, x: Tensor, mask: Tensor) -> Tensor:
        """The last row of `forward`, (B, 1, d); mask (B, 1, 1, L)."""
        batch, length, dim = x.shape
        of_query, of_rest = self.qkv.weight[:dim], self.qkv.weight[dim:]
        q = F.linear(x[:, -1:], of_query).view(batch, 1, self.heads, dim // self.heads).transpose(1, 2)
        k, v = (
            F.linear(x, of_rest).view(batch, length, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        )
        distance = torch.arange(length - 1, -1, -1, device=x.device).clamp(0, self.recency.shape[1] - 1)
        return self._attend(q, k, v, self.recency[:, distance].unsqueeze(1) + mask)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """q (B, heads, Q, d / heads), k and v with L for Q, bias (…, heads, Q, L) → (B, Q, d)."""
        # torch's fused attention has no gradient for a learnt bias, and its export fails on the layout
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + bias, dim=-1)
        return cast(Tensor, self.out((weights @ v).transpose(1, 2).flatten(2)))


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer, 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return cast(Tensor, self.down(F.silu(gate) * up))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, dim: int, heads: int, hidden: int, max_distance: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-6)
        self.attention = RecencyAttention(dim, heads, max_distance)
        self.feed_forward_norm = nn.RMSNorm(dim, eps=1e-6)
        self.feed_forward = SwiGLU(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return cast(Tensor, x + self.dropout(self.feed_forward(self.feed_forward_norm(x))))

    def newest(self, x: Tensor, mask: Tensor) -> Tensor:
        """The last position of `forward`, (B, 1, d): serving needs no other of the last block."""
        last = x[:, -1:] + self.dropout(self.attention.newest(self.attention_norm(x), mask[:, :, -1:]))
        return cast(Tensor, last + self.dropout(self.feed_forward(self.feed_forward_norm(last))))


def causal_mask(history: Tensor) -> Tensor:
    """(B, L) item numbers → (B, 1, L, L) additive mask: attend to earlier real events and to oneself."""
    length = history.shape[1]
    at = torch.arange(length, device=history.device)
    allowed = (at[:, None] > at[None, :]) & (history != 0)[:, None, :]
    allowed = allowed | (at[:, None] == at[None, :])
    return torch.where(allowed, 0.0, MASKED).unsqueeze(1)
