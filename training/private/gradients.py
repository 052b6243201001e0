"""The sum of the users' clipped gradients.

A user's gradient is that of the sum of the losses of all her rows, over all parameters together, scaled down to a norm
of at most C. So she moves the sum by at most C, however many rows she has.

Tables (items, fields of items) get gradients in the rows that a user touches, and only these are computed: inside
`vmap` each user has a small table of her own, in which her numbers are numbered again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head
from recsys.models.ranker import HEADS, Ranker, RankerConfig
from training.private.users import Block
from training.ranker.loop import head_losses


@dataclass(frozen=True)
class LocalRows:
    """Rows of a table that each of U users touches.

    rows: (U, K) numbers in the table, row 0 first. used: (U, K) bool; the others are padding.
    """

    rows: Tensor
    used: Tensor


@dataclass(frozen=True)
class UserGradients:
    """Of each of U users. dense: parameter → (U, …). tables: table → its rows and their gradients (U, K, width)."""

    dense: Mapping[str, Tensor]
    tables: Mapping[str, tuple[LocalRows, Tensor]]


@dataclass
class Sums:
    """Accumulates what the users of a step contribute.

    dense: parameter → sum of clipped gradients. tables: table → (rows, width) likewise. touched: table → (rows,) how
    much the users touch each row, a user's part having a norm of at most 1 over all tables together.
    """

    dense: dict[str, Tensor]
    tables: dict[str, Tensor]
    touched: dict[str, Tensor]
    users: int = 0
    clipped: int = 0  # users whose gradient was scaled down

    @classmethod
    def of(cls, model: Ranker) -> "Sums":
        """Zeros."""
        zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        tables = {name: zeros.pop(f"{name}.weight") for name in table_names(model)}
        return cls(zeros, tables, {name: torch.zeros(len(table)) for name, table in tables.items()})

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


def table_names(model: Ranker) -> list[str]:
    """The modules whose gradients are sparse."""
    return ["item", *(f"field.{i}" for i in range(len(model.field)))]


def check(config: RankerConfig) -> None:
    """
    Raises:
        InvalidConfig: the model shares rows between items, adds log odds that were learnt without noise, or drops
            values by draws that a user's gradient would share with others.
    """
    refused = ("offset", "item_buckets", "dropout", "item_dropout")
    if given := [name for name in refused if getattr(config, name)]:
        raise InvalidConfig(f"model: {', '.join(given)} cannot be trained privately; leave it 0")


def user_gradients(model: Ranker, block: Block, weights: Mapping[Head, float]) -> UserGradients:
    """Every user's gradient of the sum of her rows' losses. `weights`: of the heads."""
    history, types, gaps, items, features, position = block.inputs
    users, rows, length = history.shape
    item_rows, numbers = local_rows(torch.cat((history.flatten(1), items), 1))
    history = numbers[:, : rows * length].view(users, rows, length)
    items = numbers[:, rows * length :]
    codes = model.fields[item_rows.rows].long()  # (U, K, fields)
    of_tables, renumbered = {"item": item_rows}, torch.zeros_like(codes)
    for i in range(codes.shape[2]):
        of_tables[f"field.{i}"], renumbered[:, :, i] = local_rows(codes[:, :, i])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    local = {name: parameters.pop(f"{name}.weight")[rows.rows] for name, rows in of_tables.items()}

    def loss(
        dense: Mapping[str, Tensor],
        tables: Mapping[str, Tensor],
        fields: Tensor,
        inputs: Sequence[Tensor],
        labels: Tensor,
        mask: Tensor,
    ) -> Tensor:
        state = {**dense, **{f"{name}.weight": table for name, table in tables.items()}, "fields": fields}
        losses = head_losses(functional_call(model, state, tuple(inputs)), labels)
        return torch.stack([(losses[head] * mask).sum() * weights.get(head, 0.0) for head in HEADS]).sum()

    each = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0, 0, 0, 0))
    inputs = (history, types, gaps, items, features, position)
    dense, tables = each(parameters, local, renumbered, inputs, block.labels, block.mask)
    return UserGradients(dense, {name: (of_tables[name], found) for name, found in tables.items()})


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
    return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).sqrt()


def _finite(each: Tensor, norms: Tensor) -> Tensor:
    """The gradients, with 0 for users whose norm is not finite."""
    wrong = ~norms.isfinite()
    return each.masked_fill(wrong.view(-1, *[1] * (each.dim() - 1)), 0.0) if wrong.any() else each
