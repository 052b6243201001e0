"""The ranker's loss and training loop, shared by training, distillation and evaluation.

Deterministic under a seed. An interrupted run continues from its last whole epoch and ends in the same weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from recsys.contracts.types import Head
from recsys.metrics import auc, gauc
from recsys.models.ranker import HEADS, RankerLogits
from training.checkpoint import TrainingState
from training.config import Config
from training.optim import warmup_cosine
from training.ranker.adversarial import Attack, with_attack
from training.ranker.dataset import RankExamples
from training.seeding import seed_step

Rows = NDArray[np.int64]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
# (logits, labels of the batch (B, heads), rows of the batch in the training set) → what a step minimises
Objective = Callable[[RankerLogits, Tensor, NDArray[np.int64]], Tensor]


class LoopConfig(Config):
    """How long and how fast to train."""

    epochs: int = Field(6, ge=1, description="Epochs at most.")
    rows_per_epoch: int = Field(
        150_000, ge=1, description="At most, drawn for each epoch: time is bounded, whatever the lake holds."
    )
    batch_size: int = Field(1024, ge=1, description="Rows per step.")
    learning_rate: float = Field(2e-3, ge=0, description="Peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Of matrices, decoupled (AdamW).")
    embedding_decay: float = Field(1e-4, ge=0, description="Of embeddings: rare items stay near the average.")
    patience: int = Field(2, ge=0, description="Epochs without a better validation score before stopping.")
    loss_weights: Mapping[Head, float] = Field(
        {Head.CLICK: 1.0, Head.CONVERSION: 1.0, Head.LIKE: 0.5, Head.DWELL: 0.3},
        description="Weights of the losses.",
    )
    attack: float = Field(0.0, ge=0, description="Epsilon of adversarial training; 0: none.")
    attack_steps: int = Field(1, ge=1, description="1: FGSM; more: PGD, each step costs another run.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same weights.")


def fit(
    model: nn.Module,
    train: RankExamples,
    validation: RankExamples,
    config: LoopConfig,
    objective: Objective | None = None,
    checkpoints: Path | None = None,
    report: Callable[[int, float], None] = lambda epoch, score: None,
) -> int:
    """Train `model` in place to its best epoch by validation AUC *and* GAUC.

    Args:
        validation: may be empty; the training rows then decide.
        objective: default, `ranking_loss` with the configured weights.
        checkpoints: file to resume from and to write after each epoch; deleted when done.
        report: called after each epoch with its number and validation score.

    Returns:
        epochs run, those of an interrupted run included.
    """
    attack = Attack(config.attack, config.attack_steps)
    minimised = objective or (lambda logits, labels, _: ranking_loss(logits, labels, config.loss_weights))
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate)
    rows_per_epoch = min(len(train), config.rows_per_epoch)
    steps_per_epoch = -(-rows_per_epoch // config.batch_size)
    steps = steps_per_epoch * config.epochs
    state = TrainingState(model, None, optimizer)
    identity = {"loop": config.model_dump(mode="json"), "rows": len(train), "last_ms": int(train.time_ms[-1])}
    if checkpoints is not None:
        state.restore(checkpoints, identity)

    judged = validation if len(validation) else train
    scores = [epoch["score"] for epoch in state.progress.reports]
    while len(scores) < config.epochs and len(scores) - _best_epoch(scores) <= config.patience:
        epoch = len(scores)
        model.train()
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train))[:rows_per_epoch]
        for i, rows in enumerate(np.array_split(order, steps_per_epoch)):
            step = epoch * steps_per_epoch + i
            seed_step(config.seed, step)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _rate(step, steps)
            batch = train.take(rows)
            inputs, labels = inputs_of(batch), torch.from_numpy(batch.labels)

            def loss_of(inputs: Inputs = inputs, labels: Tensor = labels, rows: Rows = rows) -> Tensor:
                return minimised(model(*inputs), labels, rows)

            loss = with_attack(model, loss_of, attack) if config.attack else loss_of()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        scores.append(selection_score(predict(model, judged), judged))
        report(epoch + 1, scores[-1])
        if _best_epoch(scores) == len(scores):
            state.best = {name: weight.clone() for name, weight in model.state_dict().items()}
        state.progress.epoch = epoch + 1
        state.progress.reports.append({"score": scores[-1]})
        if checkpoints is not None:
            state.save(checkpoints, identity)
    model.load_state_dict(state.best)
    model.eval()
    if checkpoints is not None:
        checkpoints.unlink(missing_ok=True)
    return len(scores)


def _best_epoch(scores: list[float]) -> int:
    """Number of the best epoch from 1, the first of equals; 0 before the first epoch."""
    return int(np.argmax(scores)) + 1 if scores else 0


def ranking_loss(logits: RankerLogits, labels: Tensor, weights: Mapping[Head, float]) -> Tensor:
    """Weighted sum over the heads; conversion as ESMM: P(click) · P(conversion | click) over all rows.

    Args:
        labels: (B, heads) as `RankExamples.labels`. A NaN label (not known) is left out.
    """
    losses = head_losses(logits, labels)
    return torch.stack([losses[head].mean() * weights.get(head, 0.0) for head in HEADS]).sum()


def head_losses(logits: RankerLogits, labels: Tensor) -> dict[Head, Tensor]:
    """The loss of each row (B,), by head."""
    click, conversion, like, dwell = labels.unbind(1)
    both = F.logsigmoid(logits.click) + F.logsigmoid(logits.conversion)
    each = partial(F.binary_cross_entropy_with_logits, reduction="none")
    return {
        Head.CLICK: each(logits.click, click),
        Head.CONVERSION: -(conversion * both + (1 - conversion) * log1mexp(both)),
        Head.LIKE: each(logits.like, like),
        # the median is what the mean absolute error wants, and what a few very long views cannot pull away
        Head.DWELL: F.l1_loss(logits.dwell, dwell, reduction="none"),
    }


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact at both ends (Mächler 2012)."""
    x = x.clamp_max(-1e-7)
    return torch.where(x > -0.693, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def inputs_of(examples: RankExamples) -> Inputs:
    """The model's inputs as tensors."""
    return (
        torch.from_numpy(examples.history).long(),
        torch.from_numpy(examples.types).long(),
        torch.from_numpy(examples.gaps).long(),
        torch.from_numpy(examples.items),
        torch.from_numpy(examples.features),
        torch.from_numpy(examples.position),
    )


def predict_logits(
    model: nn.Module, examples: RankExamples, batch_size: int = 4096, as_served: bool = True
) -> RankerLogits:
    """Logits of every row, in order. `as_served`: position is read as 0."""
    model.eval()
    if not len(examples):
        return RankerLogits(*(torch.zeros(0) for _ in HEADS))
    found: list[RankerLogits] = []
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            *before, position = inputs_of(examples.take(slice(start, start + batch_size)))
            found.append(model(*before, torch.zeros_like(position) if as_served else position))
    return RankerLogits(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def scores_of(logits: RankerLogits) -> dict[Head, NDArray[np.float32]]:
    """What serving would output: probabilities, and dwell as log1p seconds."""
    return {
        Head.CLICK: torch.sigmoid(logits.click).numpy(),
        Head.CONVERSION: torch.sigmoid(logits.conversion).numpy(),
        Head.LIKE: torch.sigmoid(logits.like).numpy(),
        Head.DWELL: F.relu(logits.dwell).numpy(),
    }


def predict(model: nn.Module, examples: RankExamples) -> dict[Head, NDArray[np.float32]]:
    """Scores of every row, (n,) per head."""
    return scores_of(predict_logits(model, examples))


def selection_score(scores: Mapping[Head, NDArray[np.float32]], examples: RankExamples) -> float:
    """Mean of click AUC and click GAUC: the level across requests matters as well as the order within one. Of orders or
    likes, in this turn, where clicks do not vary; 0 where nothing does."""
    for head in (Head.CLICK, Head.CONVERSION, Head.LIKE):
        labels = examples.label(head).astype(np.int64)
        both = [auc(labels, scores[head]), gauc(labels, scores[head], examples.users)]
        known = [value for value in both if not np.isnan(value)]  # no user with both labels: no GAUC
        if known:
            return sum(known) / len(known)
    return 0.0


def _parameter_groups(model: nn.Module, config: LoopConfig) -> list[dict[str, Any]]:
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in tables], "weight_decay": config.embedding_decay},
        {"params": [p for p in trained if id(p) not in tables], "weight_decay": config.weight_decay},
    ]


def _rate(step: int, steps: int, warm: float = 0.05) -> float:
    """Share of the peak learning rate; the cosine starts after the warm-up."""
    return warmup_cosine(step, steps * warm, max(step / steps - warm, 0) / (1 - warm))
