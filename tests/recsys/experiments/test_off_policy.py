"""Off-policy estimates against a bandit whose truth is known."""

import numpy as np
import pytest

from recsys.experiments.off_policy import Estimate, Log, doubly_robust, ips, snips

REWARD = np.array([0.1, 0.2, 0.6])
LOGGING = np.array([0.6, 0.3, 0.1])
NEW = np.array([0.1, 0.2, 0.7])
TRUTH = float(NEW @ REWARD)


def draw(rng: np.random.Generator, rows: int = 4_000) -> tuple[Log, np.ndarray]:
    actions = rng.choice(3, rows, p=LOGGING)
    rewards = (rng.random(rows) < REWARD[actions]).astype(float)
    return Log(rewards, LOGGING[actions], NEW[actions]), actions


def estimates(rng: np.random.Generator, model: np.ndarray) -> list[Estimate]:
    log, actions = draw(rng)
    return [
        ips(log),
        snips(log),
        doubly_robust(log, model[actions], np.full(len(actions), NEW @ model)),
    ]


def test_all_three_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = np.zeros(3)
    for _ in range(300):
        covered += [e.low <= TRUTH <= e.high for e in estimates(rng, REWARD)]
    assert (covered / 300 > 0.91).all()


def test_the_logged_mean_is_not_the_answer() -> None:
    log, _ = draw(np.random.default_rng(1), 20_000)
    assert abs(log.reward.mean() - TRUTH) > 0.2
    assert ips(log).value == pytest.approx(TRUTH, abs=0.05)


def test_a_good_model_narrows_the_doubly_robust_interval_and_a_wrong_one_does_not_bias_it() -> None:
    rng = np.random.default_rng(2)
    width = [e.high - e.low for e in estimates(rng, REWARD)]
    assert width[2] < width[0]
    wrong = [estimates(rng, np.array([0.9, 0.0, 0.0]))[2].value for _ in range(100)]
    assert np.mean(wrong) == pytest.approx(TRUTH, abs=0.02)


def test_the_same_policy_is_its_own_mean() -> None:
    rewards, p = np.array([0.0, 1.0, 1.0]), np.array([0.5, 0.25, 0.25])
    assert ips(Log(rewards, p, p)).value == pytest.approx(2 / 3)
    assert snips(Log(rewards, p, p)).effective_rows == pytest.approx(3)


def test_clipping_bounds_the_weights() -> None:
    log = Log(np.array([1.0, 1.0]), np.array([0.001, 1.0]), np.array([1.0, 1.0]))
    assert ips(log).value > 400
    assert ips(log, clip=10).value == pytest.approx(5.5)


@pytest.mark.parametrize("logged", [0.0, -0.1, 1.5])
def test_impossible_propensities_are_refused(logged: float) -> None:
    with pytest.raises(ValueError, match="propensities"):
        Log(np.ones(2), np.array([logged, 1.0]), np.ones(2))
