"""Distillation: the student learns the labels and what the teacher makes of them (Hinton et al. 2015).

A label says what happened once; the teacher's probability says how likely it was, which is less noisy and so worth
more to a small model. `weight` mixes the two; `temperature` > 1 flattens the teacher's odds so that the
differences among unlikely items count.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recsys.models.ranker import RankerLogits
from training.rank_loop import LoopConfig, Objective, ranking_loss


@dataclass(frozen=True)
class Distillation:
    """How much the student listens to the teacher: 0 not at all, 1 to nothing else."""

    weight: float = 0.7
    temperature: float = 2.0


def distillation(answers: RankerLogits, loop: LoopConfig, config: Distillation) -> Objective:
    """The student's objective for `training.rank_loop.fit`.

    Args:
        answers: the teacher's logits of every training row, in order; it answers once.
    """

    def objective(logits: RankerLogits, labels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        chosen = torch.from_numpy(rows)
        soft = soft_loss(logits, RankerLogits(*(a[chosen] for a in answers)), config.temperature)
        return config.weight * soft + (1 - config.weight) * ranking_loss(logits, labels, loop.loss_weights)

    return objective


def soft_loss(student: RankerLogits, teacher: RankerLogits, temperature: float) -> Tensor:
    """Cross-entropy of the probability heads at `temperature`, scaled by its square so that gradients keep their
    size; mean absolute difference of dwell."""
    heads = [
        F.binary_cross_entropy_with_logits(ours / temperature, torch.sigmoid(theirs / temperature))
        for ours, theirs in zip(student[:3], teacher[:3], strict=True)
    ]
    return temperature**2 * torch.stack(heads).sum() + F.l1_loss(student.dwell, teacher.dwell)
