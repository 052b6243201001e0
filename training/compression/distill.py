"""Distillation: the student learns the labels and the teacher's answers (Hinton et al. 2015).

A label says what happened once; the teacher's log odds say how likely it was, which is less noisy and so worth more
to a small model.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recsys.models.ranker import RankerLogits
from training.ranker.loop import LoopConfig, Objective, ranking_loss

WEIGHT = 0.95  # of the teacher's answers; the labels have the rest


def distillation(answers: RankerLogits, loop: LoopConfig, weight: float = WEIGHT) -> Objective:
    """The student's objective for `training.ranker.loop.fit`.

    Args:
        answers: the teacher's logits of every training row, in order.
        weight: of the answers, 0 to 1; the labels have the rest.
    """

    def objective(logits: RankerLogits, labels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        chosen = torch.from_numpy(rows)
        soft = soft_loss(logits, RankerLogits(*(a[chosen] for a in answers)))
        return weight * soft + (1 - weight) * ranking_loss(logits, labels, loop.loss_weights)

    return objective


def soft_loss(student: RankerLogits, teacher: RankerLogits) -> Tensor:
    """Half the mean squared difference of the log odds per head, and the mean absolute difference of dwell.

    Squared differences are what soft cross-entropy becomes at high temperature (Hinton et al., section 2.1; Ba &
    Caruana 2014). They weigh every head alike; cross-entropy hardly feels one with two percent of positives.
    """
    heads = [F.mse_loss(ours, theirs) / 2 for ours, theirs in zip(student[:3], teacher[:3], strict=True)]
    return torch.stack(heads).sum() + F.l1_loss(student.dwell, teacher.dwell)
