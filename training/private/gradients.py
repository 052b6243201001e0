"""The sum of the users' clipped gradients, of any model.

A user's gradient is that of the sum of all her losses, over all parameters together, scaled down to a norm of at most
C. So she moves the sum by at most C, however much there is of her.

Tables (items, fields of items) get gradients in the rows that a user touches, and only these are computed: inside
`vmap` each user has a small table of her own, in which her numbers are numbered again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class LocalRows:
    """Rows of a table that each of U users touches.

    rows: (U, K) numbers in the table, row 0 first. used: (U, K) bool, those of the user's own data; the others are
    padding, or rows that a step reads whatever her data are.
    """

    rows: Tensor
    used: Tensor


@dataclass(frozen=True)
class UserGradients:
    """Of each of U users. dense: parameter → (U, …). tables: table → its rows and their gradients (U, K, width)."""

    dense: Mapping[str, Tensor]
    tables: Mapping[str, tuple[LocalRows, Tensor]]


class Learner(Protocol):
    """A model and the users that it learns from, numbered 0 … len - 1."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def tables(self) -> Sequence[str]:
        """The embeddings, by module, whose gradients are sparse."""

    def __len__(self) -> int:
        """Number of users."""

    def begin_step(self) -> Mapping[str, Tensor]:
        """Draw what all users of a step share. Returns table → rows that the step changes in any case."""

    def gradients(self, users: NDArray[np.int64]) -> Iterator[UserGradients]:
        """Of these users, each once, in blocks that bound the memory."""


@dataclass
class Sums:
    """Accumulates what the users of a step contribute.

    dense: parameter → sum of clipped gradients. tables: table → (rows, width) likewise. touched: table → (rows,) how
    much the users touch each row, a user's part having a norm of at most 1 over all tables together; infinite where
    a row changes in any case.
    """

    dense: dict[str, Tensor]
    tables: dict[str, Tensor]
    touched: dict[str, Tensor]
    users: int = 0
    clipped: int = 0  # users whose gradient was scaled down

    @classmethod
    def of(cls, learner: Learner, users: NDArray[np.int64], clip: float) -> "Sums":
        """Of one step over these users."""
        zeros = {name: torch.zeros_like(p) for name, p in learner.model.named_parameters()}
        tables = {name: zeros.pop(f"{name}.weight") for name in learner.tables}
        sums = cls(zeros, tables, {name: torch.zeros(len(table)) for name, table in tables.items()})
        for name, rows in learner.begin_step().items():
            sums.touched[name][rows] = torch.inf
        for gradients in learner.gradients(users):
            sums.add(gradients, clip)
        return sums

    def add(self, gradients: UserGradients, clip: float) -> None:
        """Clip each user's gradient to the norm `clip`, and add it. A gradient that is not finite counts as 0."""
        norms = norms_of(gradients)
        scales = torch.where(norms.isfinite(), (clip / norms).clamp(max=1.0), 0.0)
        self.users += len(norms)
        self.clipped += int((scales < 1).sum())
        for name, each in gradients.dense.items():
            self.dense[name] += torch.tensordot(scales, _finite(each, norms), 1)
        counts = sum(local.used.sum(1) for local, _ in gradients.tables.values())
        part = torch.as_tensor(counts).float().rsqrt().unsqueeze(1)  # of one touched row
        for name, (local, each) in gradients.tables.items():
            scaled = _finite(each, norms) * scales[:, None, None]  # padding has no gradient
            self.tables[name].index_add_(0, local.rows.flatten(), scaled.flatten(0, 1))
            self.touched[name].index_add_(0, local.rows.flatten(), (part * local.used).flatten())


def local_rows(numbers: Tensor) -> tuple[LocalRows, Tensor]:
    """The different numbers of each user (U, n), with 0, and where each of the n is among them (U, n)."""
    ordered, places = torch.cat((torch.zeros_like(numbers[:, :1]), numbers), 1).sort(stable=True, dim=1)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = new.cumsum(1) - 1
    last = rank[:, -1:]
    rows = torch.zeros(len(numbers), int(last.max()) + 1, dtype=torch.int64).scatter_(1, rank, ordered)
    index = torch.empty_like(rank).scatter_(1, places, rank)
    return LocalRows(rows, torch.arange(rows.shape[1]) <= last), index[:, 1:]


def norms_of(gradients: UserGradients) -> Tensor:
    """(U,) over all parameters."""
    parts = [*gradients.dense.values(), *(found for _, found in gradients.tables.values())]
    return torch.stack([part.reshape(len(part), -1).square().sum(1) for part in parts]).sum(0).sqrt()


def _finite(each: Tensor, norms: Tensor) -> Tensor:
    """The gradients, with 0 for users whose norm is not finite."""
    wrong = ~norms.isfinite()
    return each.masked_fill(wrong.view(-1, *[1] * (each.dim() - 1)), 0.0) if wrong.any() else each
