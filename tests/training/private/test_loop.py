"""Sampling, noise, the choice of rows, and learning at all."""

import math

import numpy as np
import pytest
import torch

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head
from recsys.metrics import auc
from tests.training.private.examples import learner_of, ranker_of, rows_of
from training.privacy.accounting import epsilon_of
from training.privacy.randomness import Floats, SeededRandomness
from training.private.gradients import Sums
from training.private.loop import Plan, PrivateLoop, fit_private, noisy, plan
from training.private.selection import rounded, selected_rows
from training.ranker.loop import predict

LOOP = PrivateLoop(epsilon=8.0, delta=1e-4, epochs=4, users_per_step=50)


class Recorded(SeededRandomness):
    """Keeps the uniform draws."""

    def __init__(self) -> None:
        super().__init__(0)
        self.uniforms: list[Floats] = []

    def uniform(self, n: int) -> Floats:
        self.uniforms.append(super().uniform(n))
        return self.uniforms[-1]


def test_the_plan_keeps_its_epsilon_and_says_so() -> None:
    planned = plan(LOOP, 1_000)
    assert (planned.sample_rate, planned.steps) == (0.05, 80)
    described = planned.describe()
    assert described["unit"] == "user"
    assert 7.9 < described["epsilon"] == epsilon_of(planned.spends, 1e-4) <= 8.0  # type: ignore[operator]


def test_more_users_or_a_larger_epsilon_need_less_noise() -> None:
    noises = [plan(LOOP, n).noise_multiplier for n in (500, 2_000)]
    assert noises == sorted(noises, reverse=True)
    assert plan(LOOP.replace(epsilon=3.0), 500).noise_multiplier > noises[0]


def test_a_delta_that_would_allow_publishing_a_user_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_PRIVACY_DELTA below"):
        plan(LOOP, 20_000)


def test_every_user_is_sampled_by_a_coin_of_her_own() -> None:
    """Poisson sampling: the number of sampled users varies as a binomial, and does not change the gradient's scale."""
    rows = rows_of([*range(200)])
    randomness = Recorded()
    planned = Plan(LOOP.replace(users_per_step=20, epochs=3), 200, 1.0)
    fit_private(learner_of(ranker_of(rows), rows), planned, randomness)
    sampled = np.stack([draws < planned.sample_rate for draws in randomness.uniforms])
    assert sampled.shape == (planned.steps, 200) == (30, 200)
    assert abs(sampled.mean() - 0.1) < 4 * math.sqrt(0.09 / sampled.size)
    assert 0.5 * 18 < sampled.sum(1).var() < 2 * 18


def test_noise_has_the_planned_deviation_on_dense_weights_and_chosen_rows_alone() -> None:
    touched = torch.zeros(5_000)
    touched[:50] = 1e6
    sums = Sums({"w": torch.zeros(4_000)}, {"item": torch.ones(5_000, 8)}, {"item": touched})
    loop = LOOP.replace(clip=2.0, selection_threshold=8.0)
    found = noisy(sums, Plan(loop, 1_000, 1.5), SeededRandomness(0))
    rows, values = found.tables["item"]
    assert rows.tolist() == list(range(50))
    for noise in (found.dense["w"], values - 1):
        assert float(noise.std()) == pytest.approx(3.0, rel=0.15)
        assert abs(float(noise.mean())) < 0.5


def test_noise_is_added_in_double_precision_and_rounded_once() -> None:
    """Else low bits tell a sum with a user from one without."""
    amounts = torch.rand(1_000)
    found = rounded(amounts, 0.7, SeededRandomness(0))
    noise = torch.from_numpy(SeededRandomness(0).normal(1_000))
    assert found.dtype == torch.float32
    assert torch.equal(found, (amounts.double() + 0.7 * noise).float())
    assert not torch.equal(found, amounts + 0.7 * noise.float())


def test_a_training_of_one_step_has_learnt_something() -> None:
    rows = rows_of([*range(40)])
    model, untrained = ranker_of(rows), ranker_of(rows)
    planned = Plan(LOOP.replace(users_per_step=40, epochs=1), 40, 0.0)
    assert planned.steps == 1
    fit_private(learner_of(model, rows), planned, SeededRandomness(0))
    pairs = zip(model.parameters(), untrained.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_rows_that_nobody_touches_are_chosen_as_rarely_as_the_threshold_says() -> None:
    touched = {"item": torch.zeros(20_000), "field.0": torch.full((30,), 1e6)}
    found = selected_rows(touched, 7.0, 2.0, SeededRandomness(0))
    assert len(found["item"]) / 20_000 == pytest.approx(0.0228, abs=0.004)
    assert len(found["field.0"]) == 30


def test_without_noise_exactly_the_touched_rows_are_chosen() -> None:
    touched = {"item": torch.tensor([0.0, 0.1, 0.0, 3.0])}
    assert selected_rows(touched, 0.0, 2.0, SeededRandomness(0))["item"].tolist() == [1, 3]


def test_rows_that_are_not_chosen_stay_bit_for_bit() -> None:
    rows = rows_of([*range(50)] * 4)
    model = ranker_of(rows)
    before = model.state_dict()["item.weight"].clone()
    planned = Plan(LOOP.replace(selection_threshold=1e6), 50, 1.0)
    fit_private(learner_of(model, rows), planned, SeededRandomness(0))
    assert torch.equal(before, model.state_dict()["item.weight"])


def test_it_learns_where_users_are_many_enough() -> None:
    users = [*range(600)] * 3
    rows, test = rows_of(users), rows_of([*range(1_000)], seed=1)
    model = ranker_of(rows)
    loop = LOOP.replace(epochs=8, users_per_step=400, learning_rate=4e-2)
    fit_private(learner_of(model, rows), plan(loop, 600), SeededRandomness(0))
    scores = predict(model, test)[Head.CLICK]
    assert auc(test.label(Head.CLICK).astype(np.int64), scores) > 0.75


def test_a_plan_of_other_users_is_refused() -> None:
    rows = rows_of([0, 1, 2])
    with pytest.raises(InvalidConfig, match="3 have data"):
        fit_private(learner_of(ranker_of(rows), rows), Plan(LOOP, 4, 1.0), SeededRandomness(0))
