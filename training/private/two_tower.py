"""How the two-tower learns privately: from the newest events of every user.

A user's gradient may depend on her events alone. So the items that a target competes with are not those of other users:
all of the catalogue, or a sample that each step draws evenly, of which every item stands for as many. The step changes
the sample's rows whatever users it samples, which needs no private choice.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from recsys.contracts.errors import InvalidConfig
from recsys.models.two_tower import TwoTower, TwoTowerShape
from training.choices import PRIVATE_TWO_TOWER_EPOCHS
from training.private.gradients import LocalRows, UserGradients, local_rows
from training.private.loop import PrivateLoop
from training.private.users import alike_in_blocks
from training.two_tower.batches import make_batch
from training.two_tower.sequences import History

IDS, WORDS = "items.ids", "items.words"


class TwoTowerLoop(PrivateLoop):
    """Also what the two-tower learns from."""

    epochs: int = Field(
        PRIVATE_TWO_TOWER_EPOCHS, ge=1, description="How often a user is sampled, on average."
    )
    max_length: int = Field(50, ge=2, description="Newest events of a user, at most.")
    negatives: int = Field(128, ge=1, description="Items that a target competes with; at most all.")


class TwoTowerLearner:
    """The two-tower and the histories of its users."""

    def __init__(
        self,
        model: TwoTower,
        shape: TwoTowerShape,
        histories: Sequence[History],
        loop: TwoTowerLoop,
        seed: int,
    ) -> None:
        """`seed`: of the samples of items, which are no secret.

        Raises:
            InvalidConfig: as `check`.
        """
        check(shape)
        self.model, self.tables = model, [IDS, WORDS]
        batch = make_batch(histories, loop.max_length)
        self.history, self.targets = batch.history.astype(np.int32), batch.targets.astype(np.int32)
        self._types, self._gaps = batch.types.astype(np.int8), batch.gaps.astype(np.int8)
        self._lengths = np.array([min(len(h.numbers), loop.max_length) for h in histories])
        slots = model.items.attributes
        self._slots = slots[:, : max(1, int((slots > 0).sum(1).max()))]
        self._n_items = len(slots) - 1
        self._n_negatives = min(loop.negatives, self._n_items)
        self._rng = np.random.default_rng((seed, 1))
        self._negatives = torch.arange(1, 1 + self._n_items)
        self._log_weight = math.log(self._n_items / self._n_negatives)

    def __len__(self) -> int:
        return len(self._lengths)

    def begin_step(self) -> Mapping[str, Tensor]:
        """Draw the items that targets compete with."""
        if self._n_negatives < self._n_items:
            drawn = self._rng.choice(self._n_items, self._n_negatives, replace=False, shuffle=False)
            self._negatives = torch.from_numpy(1 + drawn)
        words = torch.unique(self._slots[self._negatives])
        return {IDS: self._negatives, WORDS: words[words > 0]}

    def gradients(self, users: NDArray[np.int64]) -> Iterator[UserGradients]:
        tower, columns = self.model.items, (self.history, self._types, self._gaps, self.targets)
        words = F.embedding_bag(self._slots, tower.words.weight, mode="mean", padding_idx=0)
        sums = (tower.get_parameter("ids.weight") + words).detach()
        for alike, length in alike_in_blocks(users, self._lengths[users]):
            arrays = (torch.from_numpy(column[alike, -length:]).long() for column in columns)
            yield self._gradients(sums, *arrays)

    def _gradients(
        self, table: Tensor, history: Tensor, types: Tensor, gaps: Tensor, targets: Tensor
    ) -> UserGradients:
        """Every user's gradient of the sum of her targets' losses.

        table: (1 + n_items, d), items before they are normalised, as `ItemTower` sums them. The others: (U, L).
        """
        users, length = history.shape
        ids, numbers = local_rows(torch.cat((history, targets, self._negatives.expand(users, -1)), 1))
        ids = LocalRows(ids.rows, among(ids, numbers[:, : 2 * length]))
        history, targets, negatives = torch.split(numbers, [length, length, len(self._negatives)], 1)

        def loss(
            dense: dict[str, Tensor],
            sums: Tensor,
            inputs: Sequence[Tensor],
            targets: Tensor,
            negatives: Tensor,
        ) -> Tensor:
            items = F.normalize(sums, dim=1)
            history, types, gaps = (column.unsqueeze(0) for column in inputs)
            read = F.embedding(history, items)
            wanted: Tensor = functional_call(self.model.user, dense, (read, history, types, gaps))[0]
            right = (wanted * F.embedding(targets, items)).sum(1, keepdim=True)
            wrong = wanted @ F.embedding(negatives, items).T + self._log_weight
            wrong = wrong.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
            losses = torch.cat((right, wrong), 1).logsumexp(1, keepdim=True) - right
            return (losses[:, 0] * (targets > 0)).sum()

        dense = {name: p.detach() for name, p in self.model.user.named_parameters()}
        each = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0, 0, 0))
        of_users, of_sums = each(dense, table[ids.rows], (history, types, gaps), targets, negatives)
        return UserGradients(
            {f"user.{name}": found for name, found in of_users.items()},
            {IDS: (ids, of_sums), WORDS: words_gradients(self._slots[ids.rows], ids.used, of_sums)},
        )


def check(shape: TwoTowerShape) -> None:
    """
    Raises:
        InvalidConfig: the model drops values by draws that a user's gradient would share with others, or reads
            attributes of users, of which it would learn.
    """
    refused = ("dropout", "id_dropout", "profile")
    if given := [name for name in refused if getattr(shape, name)]:
        raise InvalidConfig(f"shape: {', '.join(given)} cannot be trained privately; leave it 0")


def among(local: LocalRows, numbers: Tensor) -> Tensor:
    """(U, K) which of a user's rows are among `numbers` (U, n), places in them."""
    return torch.zeros_like(local.used).scatter_(1, numbers, True)


def words_gradients(slots: Tensor, used: Tensor, of_sums: Tensor) -> tuple[LocalRows, Tensor]:
    """The gradients of attributes from those of their items' sums: each attribute has its part of the mean.

    Args:
        slots: (U, K, slots). used: (U, K) the user's own items. of_sums: (U, K, d).
    """
    words, numbers = local_rows(slots.flatten(1))
    numbers = numbers.view_as(slots)
    words = LocalRows(words.rows, among(words, (numbers * used.unsqueeze(2)).flatten(1)))
    words.used[:, 0] = False  # of no attribute; nothing reads it
    parts = of_sums / (slots > 0).sum(2, keepdim=True).clamp(min=1)
    user, item, slot = (slots > 0).nonzero(as_tuple=True)
    found = torch.zeros(words.rows.numel(), of_sums.shape[2])
    found.index_add_(0, user * words.rows.shape[1] + numbers[user, item, slot], parts[user, item])
    return words, found.view(*words.rows.shape, -1)
