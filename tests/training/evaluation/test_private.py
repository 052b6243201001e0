"""Attack and audit against planted answers, and a small run of the whole evaluation."""

import math
from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.reports.private import plot
from tests.training.evaluation.kuairand_slice import write_slice
from training.evaluation.private.attack import attack_aucs, halves
from training.evaluation.private.audit import audited_epsilon, epsilon_bound, likelihood, mechanism_scores
from training.evaluation.private.evaluate import PrivateEvaluation, main
from training.evaluation.private.rows import OF_OTHERS, read
from training.privacy.randomness import SeededRandomness
from training.private.loop import Plan, PrivateLoop, plan


def test_the_attack_finds_whom_a_model_remembers_and_nobody_else() -> None:
    rng = np.random.default_rng(0)
    members = halves(4, 2_000, rng)
    difficulty = rng.normal(0, 3.0, 2_000)
    strangers = [difficulty + rng.normal(0, 0.1, 2_000) for _ in members]
    found = attack_aucs(strangers, members)
    assert found["loss"] == pytest.approx(0.5, abs=0.02)
    assert found["references"] == pytest.approx(0.5, abs=0.02)
    remembered = [loss - 1.0 * theirs for loss, theirs in zip(strangers, members, strict=True)]
    found = attack_aucs(remembered, members)
    assert found["loss"] < 0.65, "how hard a user is hides who was there"
    assert found["references"] > 0.9


def test_all_guesses_correct_is_the_closed_form() -> None:
    """c^n = .05 with c = e^ε / (1 + e^ε)."""
    chance = 0.05 ** (1 / 200)
    assert epsilon_bound(200, 200, 500, 0.0) == pytest.approx(math.log(chance / (1 - chance)), abs=0.01)
    assert likelihood(200, 200, 500, 1.0, 0.0) == pytest.approx((math.e / (1 + math.e)) ** 200)


def test_delta_lowers_the_bound_and_guessing_gives_none() -> None:
    bounds = [epsilon_bound(95, 100, 1_000, delta) for delta in (0.0, 1e-6, 1e-4)]
    assert bounds == sorted(bounds, reverse=True)
    assert epsilon_bound(52, 100, 1_000, 1e-6) == 0.0


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_audit_of_sampling_and_noise_is_below_epsilon_and_not_far(epsilon: float) -> None:
    planned = plan(PrivateLoop(epsilon=epsilon, delta=1e-5, users_per_step=100, epochs=4), 1_000)
    included = np.random.default_rng(0).random(2_000) < 0.5
    found = audited_epsilon(
        mechanism_scores(planned, included, SeededRandomness(0)), included, planned.loop.delta
    )
    assert 0.05 * epsilon < found <= epsilon


def test_the_audit_finds_noise_that_is_too_small() -> None:
    """The control: with a twentieth of the noise, epsilon 1 is refuted."""
    loop = PrivateLoop(epsilon=1.0, delta=1e-5, users_per_step=100, epochs=4)
    weak = Plan(loop, 1_000, plan(loop, 1_000).noise_multiplier / 20)
    included = np.random.default_rng(0).random(2_000) < 0.5
    scores = mechanism_scores(weak, included, SeededRandomness(0))
    assert audited_epsilon(scores, included, loop.delta) > 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slice")
    write_slice(path)
    return path


def test_private_inputs_have_no_counts_of_others(folder: Path) -> None:
    own, everything = read(folder)
    width = own.parts["train"].features.shape[1]
    assert width < everything.parts["train"].features.shape[1] - len(OF_OTHERS)
    assert len(own.numeric) + len(own.categorical) == width


def test_a_quick_run_has_every_figure_and_a_plot(folder: Path, tmp_path: Path) -> None:
    config = PrivateEvaluation(data=folder).quick()
    result = main(config.replace(loop=config.loop.replace(users_per_step=150, delta=1e-4), canaries=40))
    kinds = ("plain", "8", "3")
    for name in (
        *("video_rate_click_auc", "creator_rate_click_auc", "plain_with_counts_click_auc", "step_ratio"),
        *(f"private_{epsilon}_click_auc" for epsilon in ("inf", "8", "3")),
        *(f"attack_{kind}_{by}_auc" for kind in kinds for by in ("loss", "references")),
        *(f"audit_{kind}_epsilon" for kind in kinds),
    ):
        assert math.isfinite(result.figures[name]), name
    assert result.figures["constant_click_auc"] == 0.5
    assert result.figures["audit_8_epsilon"] <= 8
    plot(result, tmp_path / "private.png")
    assert (tmp_path / "private.png").stat().st_size > 1_000
