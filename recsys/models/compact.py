"""Compact embedding tables, as plain tensor operations that export to ONNX.

A *table* is any module that maps int64 numbers (…) to float32 rows (…, width), such as `nn.Embedding`. One here shares
rows between numbers; three store a row in 16, 8 or 4 bits per value.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.hashing import hashed_rows


class HashedTable(nn.Module):
    """`buckets` rows shared by any number of items: the sum of two rows, chosen by two hashes.

    Two items share both rows with probability 1 / buckets², so nearly every item has its own vector (Svenstrup et al.
    2017, "Hash Embeddings"). Number 0 has its own row.
    """

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.rows = nn.Embedding(2 * buckets + 1, width)

    def forward(self, numbers: Tensor) -> Tensor:
        first, second = hashed_rows(numbers, self.buckets)
        known = numbers > 0
        zero = torch.zeros_like(numbers)
        rows: Tensor = self.rows(torch.where(known, first, zero)) + self.rows(
            torch.where(known, second, zero)
        )
        return rows


class HalfTable(nn.Module):
    """Rows in 16 bits (IEEE half precision): relative error ≤ 2⁻¹¹."""

    rows: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: (rows, width) float32."""
        super().__init__()
        self.register_buffer("rows", weight.half())

    def forward(self, numbers: Tensor) -> Tensor:
        rows: Tensor = lookup(self.rows, numbers).float()
        return rows


class QuantizedTable(nn.Module):
    """INT8 rows with one float scale per row: x ≈ q · scale, |error| ≤ scale / 2."""

    q: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: (rows, width) float32."""
        super().__init__()
        largest = weight.abs().amax(1).clamp_min(1e-12)
        self.register_buffer("q", (weight / largest.unsqueeze(1) * 127).round().to(torch.int8))
        self.register_buffer("scale", (largest / 127).unsqueeze(1))

    def forward(self, numbers: Tensor) -> Tensor:
        rows: Tensor = lookup(self.q, numbers).float() * lookup(self.scale, numbers)
        return rows


class QuantizedTable4(nn.Module):
    """INT4 rows, two values per byte, with one float scale per row: |error| ≤ scale / 2."""

    q: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: (rows, width) float32, width even."""
        super().__init__()
        if weight.shape[1] % 2:
            raise ValueError(f"INT4 packs two values per byte: width {weight.shape[1]} is odd")
        largest = weight.abs().amax(1).clamp_min(1e-12)
        codes = (weight / largest.unsqueeze(1) * 7).round() + 8  # 1 … 15
        self.register_buffer("q", (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8))
        self.register_buffer("scale", (largest / 7).unsqueeze(1))

    def forward(self, numbers: Tensor) -> Tensor:
        packed = lookup(self.q, numbers).float()
        high = torch.floor(packed / 16)
        low = packed - 16 * high
        return (torch.stack([low, high], dim=-1).flatten(-2) - 8) * lookup(self.scale, numbers)


def lookup(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (…, width) of a table. `table[numbers]` would export one copy of the table per use."""
    return F.embedding(numbers, table)


def quantize_tables(model: nn.Module, bits: int, least_rows: int = 256) -> None:
    """Replace every `nn.Embedding` of at least `least_rows` rows by its quantized form, in place.

    Small tables stay exact: quantizing them would save nothing.
    """
    kinds = {16: HalfTable, 8: QuantizedTable, 4: QuantizedTable4}
    if bits not in kinds:
        raise ValueError(f"{bits} bits: 16, 8 or 4")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Embedding) and child.num_embeddings >= least_rows:
                setattr(parent, name, kinds[bits](child.weight.detach()))
