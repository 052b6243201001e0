"""Adversarial training on embeddings: FGSM (Goodfellow et al. 2015; for recommenders He et al. 2018) and PGD (Madry
et al. 2018).

The attack moves every looked-up embedding by at most ± `epsilon` a number in the direction that raises the loss: in
one step (FGSM), or in several smaller ones, each from where the last one ended (PGD). Training on the mean of the clean
and the attacked loss makes the model flat around its items: noise in rare items' embeddings, and rounding to INT8,
then cost less.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.models.ranker import RankerLogits


@dataclass(frozen=True)
class Attack:
    """`steps` = 1 is FGSM. More are PGD: each as long as it takes to cross the allowed range in two fifths of them."""

    epsilon: float = 0.05
    steps: int = 1

    @property
    def stride(self) -> float:
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps


def with_attack(model: nn.Module, loss_of: Callable[[], Tensor], attack: Attack) -> Tensor:
    """The mean of the loss and of the loss under attack. `loss_of` runs the model, always with the same inputs."""
    found: list[Tensor] = []
    with _on_embeddings(model, _keeping(found)):
        clean = loss_of()
    with _moved(model, _moves(model, loss_of, clean, found, attack)):
        return (clean + loss_of()) / 2


def attacked(
    model: nn.Module,
    run: Callable[[], RankerLogits],
    loss_of: Callable[[RankerLogits], Tensor],
    attack: Attack,
) -> RankerLogits:
    """What the model says when an attacker who knows the labels has moved its embeddings: the worst case."""
    model.eval()
    found: list[Tensor] = []
    with _on_embeddings(model, _keeping(found)):
        loss = loss_of(run())
    moves = _moves(model, lambda: loss_of(run()), loss, found, attack)
    with torch.no_grad(), _moved(model, moves):
        return run()


def _moves(
    model: nn.Module, loss_of: Callable[[], Tensor], loss: Tensor, embeddings: list[Tensor], attack: Attack
) -> list[Tensor]:
    """How far each looked-up embedding is moved, in the order of the lookups; `loss` is the clean one."""
    moves = [attack.stride * d for d in _directions(loss, embeddings)]
    for _ in range(attack.steps - 1):
        found: list[Tensor] = []
        with _moved(model, moves, found):
            loss = loss_of()
        steps = _directions(loss, found)
        moves = [
            (move + attack.stride * step).clamp(-attack.epsilon, attack.epsilon)
            for move, step in zip(moves, steps, strict=True)
        ]
    return moves


def _keeping(found: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def keep(out: Tensor) -> Tensor:
        found.append(out)
        return out

    return keep


def _directions(loss: Tensor, embeddings: list[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, embeddings, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(out) if gradient is None else gradient.sign()
        for out, gradient in zip(embeddings, gradients, strict=True)
    ]


@contextmanager
def _moved(model: nn.Module, moves: list[Tensor], found: list[Tensor] | None = None) -> Iterator[None]:
    """Lookups happen in the same order in every run of the model, so the nth move belongs to the nth lookup.

    `found` receives the moved embeddings.
    """
    left = iter(moves)

    def move(out: Tensor) -> Tensor:
        moved = out + next(left)
        if found is not None:
            found.append(moved)
        return moved

    with _on_embeddings(model, move):
        yield


@contextmanager
def _on_embeddings(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(lambda _module, _inputs, out: change(out))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
