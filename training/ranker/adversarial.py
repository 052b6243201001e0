"""Adversarial training on embeddings: FGSM (Goodfellow et al. 2015; for recommenders He et al. 2018) and PGD (Madry
et al. 2018).

The attack moves every looked-up embedding by at most ± `epsilon` per number in the direction that raises the loss.
Training on the mean of the clean and the attacked loss makes the model flat around its items: noise in rare items'
embeddings, and rounding to INT8, then cost less.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.models.ranker import RankerLogits


@dataclass(frozen=True)
class Attack:
    """`steps` = 1 is FGSM, more are PGD: two fifths of the steps suffice to cross the allowed range."""

    epsilon: float = 0.05
    steps: int = 1

    @property
    def stride(self) -> float:
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps


def with_attack(model: nn.Module, loss_of: Callable[[], Tensor], attack: Attack) -> Tensor:
    """Mean of the loss and of the loss under attack. `loss_of` runs the model, always with the same inputs."""
    with _lookups(model) as embeddings:
        clean = loss_of()
    with _lookups(model, _moves(model, loss_of, clean, embeddings, attack)):
        return (clean + loss_of()) / 2


def attacked(
    model: nn.Module,
    run: Callable[[], RankerLogits],
    loss_of: Callable[[RankerLogits], Tensor],
    attack: Attack,
) -> RankerLogits:
    """The model's answer after an attacker who knows the labels has moved its embeddings: the worst case."""
    model.eval()
    with _lookups(model) as embeddings:
        clean = loss_of(run())
    moves = _moves(model, lambda: loss_of(run()), clean, embeddings, attack)
    with torch.no_grad(), _lookups(model, moves):
        return run()


def _moves(
    model: nn.Module, loss_of: Callable[[], Tensor], clean: Tensor, embeddings: list[Tensor], attack: Attack
) -> list[Tensor]:
    """How far each looked-up embedding is moved, in the order of the lookups."""
    moves = [attack.stride * d for d in _directions(clean, embeddings)]
    for _ in range(attack.steps - 1):
        with _lookups(model, moves) as moved:
            loss = loss_of()
        steps = _directions(loss, moved)
        moves = [
            (move + attack.stride * step).clamp(-attack.epsilon, attack.epsilon)
            for move, step in zip(moves, steps, strict=True)
        ]
    return moves


def _directions(loss: Tensor, embeddings: list[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, embeddings, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(out) if gradient is None else gradient.sign()
        for out, gradient in zip(embeddings, gradients, strict=True)
    ]


@contextmanager
def _lookups(model: nn.Module, moves: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Collect the embeddings that the model looks up, the nth moved by `moves[n]`.

    Every run of the model looks up in the same order.
    """
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        found.append(out if moves is None else out + moves[len(found)])
        return found[-1]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
