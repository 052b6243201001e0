"""Was this user in the training data? A membership attack by loss, and how well it tells members from others.

Several models are trained on random halves of the users. In turn each is the target; the others are references. A user
whom the target fits better than the references that have not seen her is called a member (as in LiRA, Carlini et al.
2022, with one mean instead of a fitted likelihood: there are few references). Members and others are equally many, and
0.5 is guessing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.contracts.types import Head
from recsys.metrics import auc
from recsys.models.ranker import Ranker
from training.ranker.dataset import RankExamples
from training.ranker.loop import head_losses, predict_logits

Floats = NDArray[np.float64]
Members = NDArray[np.bool_]


def halves(models: int, users: int, rng: np.random.Generator) -> Members:
    """(models, users): whom each model learns from, half of them, drawn independently for each model."""
    return np.stack([rng.permutation(users) < users // 2 for _ in range(models)])


def user_losses(model: Ranker, rows: RankExamples, weights: Mapping[Head, float]) -> Floats:
    """(users,) the training's loss, mean over each user's rows, by ascending user."""
    found = head_losses(predict_logits(model, rows, as_served=False), torch.from_numpy(rows.labels))
    losses = sum(found[head] * weight for head, weight in weights.items())
    _, places, counts = np.unique(rows.users, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(places, np.asarray(losses, np.float64)) / counts)


def attack_aucs(losses: Sequence[Floats], members: Members) -> dict[str, float]:
    """AUC of the attack by loss alone, and against references; means over the models as targets.

    Args:
        losses: (users,) of each model. members: (models, users).
    """
    table, by_loss, by_references = np.stack(losses), [], []
    for target, truth in enumerate(members):
        others = np.arange(len(members)) != target
        unseen = np.where(members[others], np.nan, table[others])
        seen_by_none = np.isnan(unseen).all(0)
        unseen[:, seen_by_none] = table[others][:, seen_by_none]  # nothing better is known of them
        by_loss.append(auc(truth.astype(np.int64), -table[target]))
        by_references.append(auc(truth.astype(np.int64), np.nanmean(unseen, 0) - table[target]))
    return {"loss": float(np.mean(by_loss)), "references": float(np.mean(by_references))}
