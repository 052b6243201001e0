"""The two-tower's losses: cross-entropy of the next item among all items, sampled ones, or the batch's.

The sampled losses estimate the full softmax: a negative j, one of n drawn with probability q_j, stands for
1 / (n q_j) items (the logQ correction; Bengio & Senécal, 2008; Yi et al., 2019); the positive stands for itself.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.contracts.errors import InvalidConfig
from recsys.models.two_tower import Items

CHUNK = 1 << 22  # logits of the full softmax that exist at a time: 16 MiB


class LossName(StrEnum):
    FULL = "full"  # every item is a negative; best for catalogues up to about 100,000 items
    UNIFORM = "uniform"
    POPULARITY = "popularity"
    MIXED = "mixed"  # half uniform, half popularity
    IN_BATCH = "in_batch"  # the batch's other targets; alone it collapses (docs/recall.md)


class Loss(Protocol):
    def draw(self) -> Tensor | None:
        """Negatives of one batch, (n,) int64 item numbers, from torch's generator; None if the loss draws none."""

    def __call__(self, users: Tensor, targets: Tensor, items: Items, negatives: Tensor | None) -> Tensor:
        """users (N, d), targets (N,) int64 item numbers from 1, what `draw` gave → the sum of the N losses."""


@dataclass(frozen=True)
class FullSoftmax:
    """Cross-entropy over the whole catalogue, in chunks: the (N, n_items) logits never exist at once.

    adjustment: (n_items,) float32 added to the logits in training only (logit adjustment; Menon et al., 2021), so that
    popularity need not be learnt by the vectors.
    """

    adjustment: Tensor | None = None

    def draw(self) -> None:
        return None

    def __call__(
        self, users: Tensor, targets: Tensor, items: Items, negatives: Tensor | None = None
    ) -> Tensor:
        table = items.all_vectors()[1:]
        return F.linear_cross_entropy(
            users,
            table,
            targets - 1,
            linear_bias=None if self.adjustment is None else self.adjustment.to(users.device),
            reduction="sum",
            # of a large catalogue torch would take a row or two at a time
            options=nn.LinearCrossEntropyOptions(
                batch_chunk_size=max(1, CHUNK // len(table)), chunking_method=None
            ),
        )


@dataclass(frozen=True)
class SampledSoftmax:
    """`n` negatives, shared by the batch, drawn with replacement from `probabilities` ((n_items,), sums to 1).

    n = 0: the negatives are the batch's own targets, in effect drawn by popularity; each process has those of its rows.
    """

    probabilities: Tensor
    n: int
    logq: bool = True

    def draw(self) -> Tensor | None:
        return 1 + torch.multinomial(self.probabilities, self.n, replacement=True) if self.n else None

    def __call__(self, users: Tensor, targets: Tensor, items: Items, negatives: Tensor | None) -> Tensor:
        drawn = self.draw() if negatives is None else negatives
        others = targets if drawn is None else drawn.to(users.device)
        return sampled_cross_entropy(users, targets, others, items, self.probabilities if self.logq else None)


def sampled_cross_entropy(
    users: Tensor, targets: Tensor, negatives: Tensor, items: Items, probabilities: Tensor | None
) -> Tensor:
    """Cross-entropy of each target against the negatives (n,), without those that are the target."""
    positive = (users * items(targets)).sum(-1, keepdim=True)
    logits = users @ items(negatives).T
    if probabilities is not None:
        logits = logits - torch.log(len(negatives) * probabilities.to(users.device)[negatives - 1])
    logits = logits.masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
    return (torch.logsumexp(torch.cat([positive, logits], dim=1), dim=1, keepdim=True) - positive).sum()


def make_loss(
    name: LossName, counts: Tensor, negatives: int, logq: bool = True, adjustment: float = 0.0
) -> Loss:
    """The loss of that name.

    Args:
        counts: (n_items,), occurrences in the training data.
        adjustment: of the full softmax: this much of each item's log popularity is added to its logits.

    Raises:
        InvalidConfig: no negatives, or an adjustment for another loss than the full softmax.
    """
    popularity = (counts.double() + 1) / (counts.double() + 1).sum()  # no item has probability 0
    if name is LossName.FULL:
        return FullSoftmax((adjustment * popularity.log()).float() if adjustment else None)
    if adjustment:
        raise InvalidConfig(f"popularity_adjustment: needs the loss full, not {name}")
    if name is LossName.IN_BATCH:
        return SampledSoftmax(popularity.float(), 0, logq)
    if negatives < 1:
        raise InvalidConfig(f"negatives: {negatives} is too few for the loss {name}; use 1 or more")
    uniform = torch.full_like(popularity, 1 / len(popularity))
    probabilities = {
        LossName.UNIFORM: uniform,
        LossName.POPULARITY: popularity,
        LossName.MIXED: (uniform + popularity) / 2,
    }[name]
    return SampledSoftmax(probabilities.float(), negatives, logq)
