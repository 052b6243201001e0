import numpy as np
import torch
from torch import Tensor, nn

from recsys.contracts.types import Head
from recsys.metrics import auc
from recsys.models.ranker import RankerLogits
from training.compression.synthetic import LadderData, make
from training.evaluation import robustness as evaluate_robust
from training.evaluation.robustness import RobustEvaluation, with_bots
from training.ranker.adversarial import Attack, attacked, with_attack


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

    after = attacked(model, lambda: model(numbers), loss, Attack(0.3)).click
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
    found = with_attack(model, loss, Attack(0.5))
    assert abs(found.item() - (clean + clean + 0.5) / 2) < 1e-6
    found.backward()  # type: ignore[no-untyped-call]
    assert model.table.weight.grad is not None


def test_more_steps_stay_within_epsilon_and_hurt_no_less() -> None:
    """A loss with a bend: the first gradient points away from the worst place, later ones find it."""
    torch.manual_seed(0)
    model, numbers = Toy(), torch.arange(200)
    before = model(numbers).click.detach()

    def loss(logits: RankerLogits) -> Tensor:
        moved = logits.click - before
        total: Tensor = (0.2 * moved - (moved - 0.05) ** 2).sum()
        return total

    one, ten = (attacked(model, lambda: model(numbers), loss, Attack(0.3, steps)).click for steps in (1, 10))
    assert ((ten - before).abs() <= 0.3 + 1e-6).all()
    assert loss(RankerLogits(ten, ten, ten, ten)) > loss(RankerLogits(one, one, one, one))


def test_training_under_pgd_has_gradients() -> None:
    torch.manual_seed(0)
    model, numbers = Toy(), torch.tensor([3, 5])
    with_attack(model, lambda: (model(numbers).click ** 2).sum(), Attack(0.1, steps=3)).backward()  # type: ignore[no-untyped-call]
    assert model.table.weight.grad is not None
    assert (model.table.weight.grad[[3, 5], 0] != 0).all()


def test_bots_are_told_from_people_and_the_effect_is_reported() -> None:
    result = evaluate_robust.main(RobustEvaluation(rows=3_000, epochs=1, steps=2))
    figures = result.figures
    assert figures["bots_removed"] == 1
    assert figures["people_removed"] <= 0.01
    for name in ("plain", "fgsm", "pgd"):  # who knows the labels can only do harm
        assert figures[f"{name}_attacked_pgd_auc"] < figures[f"{name}_clean_auc"]
    # an attack of the embeddings' own size reverses the order
    assert figures["plain_attacked_fgsm_auc"] < 0.5


def test_bots_are_mixed_in_by_time_and_click_everything() -> None:
    rows = make(LadderData(n_items=300, n_creators=20, n_users=50, rows=1_000, n_features=24)).examples
    dirty = with_bots(rows, 0.8, np.random.default_rng(0))
    bots = dirty.users > rows.users.max()
    assert bots.sum() == 800
    assert (dirty.label(Head.CLICK)[bots] == 1).all()
    assert (np.diff(dirty.time_ms) >= 0).all()
    assert len(dirty) == 1_800
