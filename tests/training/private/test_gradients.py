"""Users' gradients against a plain loop, and what one user can change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.contracts.errors import InvalidConfig
from recsys.models.ranker import Ranker, RankerConfig
from tests.training.private.examples import SMALL, learner_of, ranker_of, rows_of
from training.private.gradients import Sums, norms_of
from training.private.ranker import RankerLoop, check, user_gradients
from training.private.users import UserRows
from training.ranker.dataset import RankExamples
from training.ranker.loop import head_losses, inputs_of

WEIGHTS = RankerLoop().loss_weights
USERS = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 0, 5, 1]


def plain_gradient(model: Ranker, rows: RankExamples) -> dict[str, Tensor]:
    """Of the sum of the rows' losses."""
    model.zero_grad()
    losses = head_losses(model(*inputs_of(rows)), torch.from_numpy(rows.labels))
    torch.stack([(losses[head] * weight).sum() for head, weight in WEIGHTS.items()]).sum().backward()  # type: ignore[no-untyped-call]
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def sums_of(model: Ranker, rows: RankExamples, clip: float, most: int = 32) -> Sums:
    learner = learner_of(model, rows, most)
    return Sums.of(learner, np.arange(len(learner)), clip)


def flat(sums: Sums) -> Tensor:
    return torch.cat([part.flatten() for part in (*sums.dense.values(), *sums.tables.values())])


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, attention="din"), replace(SMALL, attention="none")])
def test_each_users_gradient_is_that_of_a_plain_loop_clipped(config: RankerConfig) -> None:
    rows = rows_of(USERS)
    model, clip = ranker_of(rows, config), 4.5
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    norms = []
    for user in np.unique(rows.users):
        found = plain_gradient(model, rows.take(rows.users == user))
        norm = float(torch.stack([g.square().sum() for g in found.values()]).sum().sqrt())
        norms.append(norm)
        for name, gradient in found.items():
            expected[name] += gradient * min(1.0, clip / norm)
    assert min(norms) < clip < max(norms), "some are clipped and some are not"
    sums = sums_of(model, rows, clip)
    assert (sums.users, sums.clipped) == (len(norms), sum(norm > clip for norm in norms))
    for name, total in {**sums.dense, **{f"{n}.weight": t for n, t in sums.tables.items()}}.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-5)


def test_only_the_newest_rows_of_a_user_count() -> None:
    rows = rows_of(USERS)
    newest = np.concatenate([np.flatnonzero(rows.users == user)[-2:] for user in np.unique(rows.users)])
    model = ranker_of(rows)
    torch.testing.assert_close(
        flat(sums_of(model, rows, 1.0, most=2)), flat(sums_of(model, rows.take(np.sort(newest)), 1.0))
    )


@pytest.mark.parametrize("copies", [1, 2, 31])
def test_a_user_moves_the_sum_by_at_most_the_clip_however_many_rows_she_has(copies: int) -> None:
    others, hers = rows_of([*range(6)] * 3), rows_of([99] * copies, seed=7)
    hers = replace(hers, features=hers.features * 1e3, labels=hers.labels * 1e3)
    both = RankExamples(
        **{name: np.concatenate((getattr(others, name), getattr(hers, name))) for name in vars(others)}
    )
    model, clip = ranker_of(others), 0.5
    without, with_her = sums_of(model, others, clip), sums_of(model, both, clip)
    moved = float((flat(with_her) - flat(without)).norm())
    assert 0.99 * clip < moved <= clip * (1 + 1e-4)
    touched = torch.cat([with_her.touched[name] - without.touched[name] for name in without.touched])
    assert float(touched.norm()) == pytest.approx(1.0, abs=1e-4)


def test_a_gradient_that_is_not_finite_counts_as_nothing() -> None:
    rows = rows_of(USERS)
    broken = replace(rows, labels=np.where(rows.users[:, None] == 3, np.nan, rows.labels))
    model = ranker_of(rows)
    rest = rows.take(rows.users != 3)
    torch.testing.assert_close(flat(sums_of(model, broken, 1.0)), flat(sums_of(model, rest, 1.0)))


def test_rows_that_nobody_touches_have_no_gradient() -> None:
    rows = rows_of(USERS)
    rows = replace(rows, items=np.full_like(rows.items, 7), history=np.full_like(rows.history, 9))
    sums = sums_of(ranker_of(rows), rows, 1.0)
    assert sums.tables["item"].abs().sum(1).nonzero().flatten().tolist() == [7, 9]
    assert sums.touched["item"].nonzero().flatten().tolist() == [0, 7, 9]  # 0 counts for everybody


def test_norms_are_over_dense_weights_and_tables_together() -> None:
    rows = rows_of([0, 0, 0])
    model, block = ranker_of(rows), next(UserRows(rows, 8).blocks(np.array([0])))
    plain = plain_gradient(model, rows)
    norm = torch.stack([g.square().sum() for g in plain.values()]).sum().sqrt()
    assert float(norms_of(user_gradients(model, block, WEIGHTS))[0]) == pytest.approx(float(norm), rel=1e-4)


def test_blocks_have_each_user_once_with_little_padding() -> None:
    rows = rows_of(sorted([*range(40)] * 3 + [7] * 20))
    users = UserRows(rows, 16)
    seen = [float(block.mask.sum()) for block in users.blocks(np.arange(0, 40, 2))]
    assert sum(seen) == 60
    for block in users.blocks(np.arange(40)):
        assert (block.mask.sum(1) > block.mask.shape[1] / 2).all()


@pytest.mark.parametrize(
    "config", [replace(SMALL, item_buckets=8), replace(SMALL, offset=True)], ids=["shared rows", "offset"]
)
def test_models_that_cannot_be_trained_so_are_refused(config: RankerConfig) -> None:
    with pytest.raises(InvalidConfig):
        check(config)
