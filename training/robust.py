"""Adversarial training on embeddings (FGSM, Goodfellow et al. 2015; for recommenders He et al. 2018).

The attack moves every looked-up embedding by ± `epsilon` in the direction that raises the loss most. Training on
the mean of the clean and the attacked loss makes the model flat around its items: noise in rare items' embeddings,
and rounding to INT8, then cost less.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recsys.models.ranker import RankerLogits


def with_attack(model: nn.Module, loss_of: Callable[[], Tensor], epsilon: float) -> Tensor:
    """The mean of the loss and of the loss under attack. `loss_of` runs the model, twice with the same inputs."""
    found: list[Tensor] = []
    with _on_embeddings(model, _keeping(found)):
        clean = loss_of()
    with _moved(model, _directions(clean, found, epsilon)):
        return (clean + loss_of()) / 2


def attacked(
    model: nn.Module,
    run: Callable[[], RankerLogits],
    loss_of: Callable[[RankerLogits], Tensor],
    epsilon: float,
) -> RankerLogits:
    """What the model says when an attacker who knows the labels has moved its embeddings: the worst case."""
    model.eval()
    found: list[Tensor] = []
    with _on_embeddings(model, _keeping(found)):
        loss = loss_of(run())
    with torch.no_grad(), _moved(model, _directions(loss, found, epsilon)):
        return run()


def _keeping(found: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def keep(out: Tensor) -> Tensor:
        found.append(out)
        return out

    return keep


def _directions(loss: Tensor, embeddings: list[Tensor], epsilon: float) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, embeddings, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(out) if gradient is None else epsilon * gradient.sign()
        for out, gradient in zip(embeddings, gradients, strict=True)
    ]


@contextmanager
def _moved(model: nn.Module, moves: list[Tensor]) -> Iterator[None]:
    """Lookups happen in the same order in every run of the model, so the nth move belongs to the nth lookup."""
    left = iter(moves)
    with _on_embeddings(model, lambda out: out + next(left)):
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
