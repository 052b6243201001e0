"""What a client computes on its device: the gradient of its own loss with respect to the shared item vectors.

The loss is the cross-entropy of the next item over a few places of the history, against items that the user does not
have: all, or a sample that the device draws, each for n / sample items. The tower has no weights, so the gradient has
three parts: of the wanted items, of the sample, one outer product per place each, and of the items of the history,
through the tower.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.federated.population import Windows
from training.federated.tower import PooledTower


@dataclass(frozen=True)
class ItemGradient:
    """Gradients of C clients, in factors: (C, n_items, d) would be too large to hold.

    items: (C, K) item numbers of which `rows` (C, K, d) is the gradient; an item may occur more than once.
    loss: (C,) mean cross-entropy of each client.
    """

    n_items: int
    items: Tensor
    rows: Tensor
    loss: Tensor

    def projected(self, basis: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each client's own gradient in the directions (d, r): (C, n_items · r)."""
        rows = self.rows @ torch.from_numpy(basis)
        found = torch.zeros(len(rows), 1 + self.n_items, basis.shape[1])
        found.scatter_add_(1, self.items.unsqueeze(-1).expand_as(rows), rows)
        return found[:, 1:].flatten(1).numpy()

    def total(self) -> Tensor:
        """The sum over clients, (n_items, d)."""
        found = torch.zeros(1 + self.n_items, self.rows.shape[2])
        return found.index_add_(0, self.items.flatten(), self.rows.flatten(0, 1))[1:]


def drawn_items(clients: int, n_items: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(C, n) item numbers, drawn evenly by each client; n = 0: all items instead."""
    if n:
        return rng.integers(1, n_items + 1, (clients, n))
    return np.broadcast_to(np.arange(1, n_items + 1), (clients, n_items))


def item_gradient(
    tower: PooledTower, table: Tensor, windows: Windows, drawn: NDArray[np.int64]
) -> ItemGradient:
    """table: (1 + n_items, d), the shared vectors by item number; row 0, of padding, is zeros. drawn: (C, S)."""
    history, places = torch.from_numpy(windows.history), torch.from_numpy(windows.places)
    is_asked, sample, n_items = places >= 0, torch.tensor(drawn), len(table) - 1
    targets = history.gather(1, places.clamp_min(0)) * is_asked
    inputs = table[history].requires_grad_()
    users = tower.pooled(inputs, tower.weights(places, history.shape[1]))
    with torch.no_grad():
        others, wanted = table[sample], table[targets]
        # an item that the user has is no wrong answer: it is never recommended
        is_own = (sample.unsqueeze(2) == history.unsqueeze(1)).any(2)
        logits = users @ others.transpose(1, 2) + math.log(n_items / sample.shape[1])
        logits.masked_fill_(is_own.unsqueeze(1), -torch.inf)
        logits = torch.cat([logits, (users * wanted).sum(-1, keepdim=True)], dim=2)
        share = (is_asked / is_asked.sum(1, keepdim=True).clamp_min(1)).unsqueeze(-1)
        chances = logits.softmax(2)
        loss = -(chances[:, :, -1:].clamp_min(1e-30).log() * share).sum((1, 2))
        errors, missing = chances[:, :, :-1] * share, (chances[:, :, -1:] - 1) * share
        gradient = errors @ others + missing * wanted
    (of_history,) = torch.autograd.grad(users, inputs, gradient)
    with torch.no_grad():
        rows = torch.cat([errors.transpose(1, 2) @ users, missing * users, of_history], dim=1)
    return ItemGradient(n_items, torch.cat([sample, targets, history], dim=1), rows, loss)
