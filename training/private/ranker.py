"""How the ranker learns privately: from the newest rows of every user."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.func import functional_call, grad, vmap

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head
from recsys.models.ranker import HEADS, Ranker, RankerConfig
from training.private.gradients import UserGradients, local_rows
from training.private.loop import PrivateLoop
from training.private.users import Block, UserRows
from training.ranker.dataset import RankExamples
from training.ranker.loop import head_losses


class RankerLoop(PrivateLoop):
    """Also what the ranker learns from."""

    rows_per_user: int = Field(32, ge=1, description="Newest rows of a user, at most.")
    loss_weights: Mapping[Head, float] = Field(
        {Head.CLICK: 1.0, Head.CONVERSION: 1.0, Head.LIKE: 0.5, Head.DWELL: 0.3},
        description="Weights of the losses.",
    )


class RankerLearner:
    """The ranker and the users of its examples."""

    def __init__(self, model: Ranker, examples: RankExamples, loop: RankerLoop) -> None:
        """
        Raises:
            InvalidConfig: as `check`.
        """
        check(model.config)
        self.model, self.rows, self._weights = (
            model,
            UserRows(examples, loop.rows_per_user),
            loop.loss_weights,
        )

    @property
    def tables(self) -> Sequence[str]:
        return ["item", *(f"field.{i}" for i in range(len(self.model.field)))]

    def __len__(self) -> int:
        return len(self.rows)

    def begin_step(self) -> Mapping[str, Tensor]:
        """Nothing: a user's rows have all that her losses need."""
        return {}

    def gradients(self, users: NDArray[np.int64]) -> Iterator[UserGradients]:
        for block in self.rows.blocks(users):
            yield user_gradients(self.model, block, self._weights)


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
