"""The losses against sums written out by hand, and the sampled ones against the full softmax they estimate."""

import pytest
import torch
from torch import Tensor

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Item
from recsys.models.two_tower import ItemTable, TwoTower, TwoTowerShape
from training.two_tower import losses
from training.two_tower.losses import FullSoftmax, LossName, make_loss, sampled_cross_entropy

N_ITEMS = 6
SHAPE = TwoTowerShape(dim=8, blocks=1, heads=1, hidden=8, attribute_buckets=16)


@pytest.fixture
def items() -> ItemTable:
    torch.manual_seed(0)
    model = TwoTower(SHAPE, [Item(str(i)) for i in range(N_ITEMS)]).eval()
    return ItemTable(model.items)


@pytest.fixture
def users() -> Tensor:
    return torch.randn(3, SHAPE.dim, generator=torch.Generator().manual_seed(1), requires_grad=True)


TARGETS = torch.tensor([1, 6, 3])


def by_hand(users: Tensor, items: ItemTable) -> Tensor:
    scores = users @ items.all_vectors()[1:].T
    return (torch.logsumexp(scores, 1) - scores[torch.arange(3), TARGETS - 1]).sum()


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_full_softmax_is_the_sum_of_cross_entropies(
    users: Tensor, items: ItemTable, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of users' logits exist at a time."""
    monkeypatch.setattr(losses, "CHUNK", rows * N_ITEMS)
    loss = FullSoftmax()(users, TARGETS, items)
    assert torch.allclose(loss, by_hand(users, items), atol=1e-5)
    ours = torch.autograd.grad(loss, users, retain_graph=True)[0]
    assert torch.allclose(ours, torch.autograd.grad(by_hand(users, items), users)[0], atol=1e-5)


def test_adjusted_logits_are_those_plus_the_log_of_popularity(users: Tensor, items: ItemTable) -> None:
    counts = torch.tensor([100, 50, 20, 5, 1, 0])
    loss = make_loss(LossName.FULL, counts, 0, adjustment=0.5)(users, TARGETS, items, None)
    scores = users @ items.all_vectors()[1:].T + 0.5 * torch.log((counts + 1) / (counts + 1).sum())
    wanted = (torch.logsumexp(scores, 1) - scores[torch.arange(3), TARGETS - 1]).sum()
    assert torch.allclose(loss, wanted, atol=1e-5)
    assert not torch.allclose(loss, by_hand(users, items), atol=1e-2)


def test_an_adjustment_is_refused_by_the_sampled_losses() -> None:
    with pytest.raises(InvalidConfig, match="popularity_adjustment"):
        make_loss(LossName.MIXED, torch.ones(3), 10, adjustment=0.5)


def test_every_item_once_as_a_uniform_negative_is_the_full_softmax(users: Tensor, items: ItemTable) -> None:
    everything = torch.arange(1, N_ITEMS + 1)
    loss = sampled_cross_entropy(users, TARGETS, everything, items, torch.full((N_ITEMS,), 1 / N_ITEMS))
    assert torch.allclose(loss, by_hand(users, items), atol=1e-5)


@pytest.mark.parametrize("name", [LossName.UNIFORM, LossName.POPULARITY, LossName.MIXED])
def test_corrected_samples_estimate_the_full_softmax(users: Tensor, items: ItemTable, name: LossName) -> None:
    torch.manual_seed(2)
    counts = torch.tensor([100, 50, 20, 5, 1, 0])
    many = 200_000
    corrected = make_loss(name, counts, many)(users, TARGETS, items, None)
    assert corrected.item() == pytest.approx(by_hand(users, items).item(), rel=0.01)
    plain = make_loss(name, counts, many, logq=False)(users, TARGETS, items, None)
    assert plain.item() > corrected.item() + 1  # n negatives in place of 5 other items


def test_a_negative_that_is_the_target_is_left_out(users: Tensor, items: ItemTable) -> None:
    own = sampled_cross_entropy(users[:1], TARGETS[:1], torch.tensor([1, 1, 1]), items, None)
    assert own.item() == pytest.approx(0, abs=1e-6)


def test_in_batch_uses_the_other_targets(users: Tensor, items: ItemTable) -> None:
    loss = make_loss(LossName.IN_BATCH, torch.zeros(N_ITEMS), 0, logq=False)(users, TARGETS, items, None)
    scores = users @ items(TARGETS).T
    assert torch.allclose(loss, (torch.logsumexp(scores, 1) - scores.diagonal()).sum(), atol=1e-5)


def test_no_negatives_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="negatives"):
        make_loss(LossName.UNIFORM, torch.ones(3), 0)
