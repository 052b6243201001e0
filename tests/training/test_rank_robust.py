import numpy as np
import torch
from torch import Tensor, nn

from recsys.metrics import auc
from recsys.models.ranker import RankerLogits
from training.robust import attacked, with_attack


class Toy(nn.Module):
    """One embedding a row, its first number is the log odds of a click."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 2)

    def forward(self, numbers: Tensor) -> RankerLogits:
        click = self.table(numbers)[:, 0]
        return RankerLogits(click, click, click, click)


def test_an_attack_moves_every_embedding_against_its_label() -> None:
    torch.manual_seed(0)
    model, numbers = Toy(), torch.arange(200)
    labels = (torch.rand(200) < 0.5).float()
    before = model(numbers).click.detach()

    def loss(logits: RankerLogits) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits.click, labels)

    after = attacked(model, lambda: model(numbers), loss, epsilon=0.3).click
    torch.testing.assert_close(after, before - 0.3 * (2 * labels - 1))
    happened = labels.numpy().astype(np.int64)
    assert auc(happened, after.numpy()) < auc(happened, before.numpy())
    torch.testing.assert_close(model(numbers).click.detach(), before)  # the hooks are gone


def test_the_trained_loss_is_the_mean_of_clean_and_attacked() -> None:
    torch.manual_seed(0)
    model, numbers = Toy(), torch.tensor([3])

    def loss() -> Tensor:
        total: Tensor = model(numbers).click.sum()
        return total

    clean = loss().item()
    found = with_attack(model, loss, epsilon=0.5)
    assert abs(found.item() - (clean + clean + 0.5) / 2) < 1e-6
    found.backward()  # type: ignore[no-untyped-call]
    assert model.table.weight.grad is not None
