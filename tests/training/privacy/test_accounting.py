"""Epsilon against closed forms and published values."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from recsys.contracts.errors import InvalidConfig
from training.privacy.accounting import Spend, combined, epsilon_of, noise_for


def exact_epsilon(sigma: float, delta: float) -> float:
    """Of one Gaussian release (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        return float(norm.cdf(a - b) - np.exp(epsilon) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0.0, 50.0))


@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_one_release_costs_what_it_must_and_little_more(sigma: float) -> None:
    exact, bound = exact_epsilon(sigma, 1e-5), epsilon_of([Spend(sigma)], 1e-5)
    assert exact <= bound <= 1.15 * exact


@pytest.mark.parametrize(
    ("sigma", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]
)
def test_the_published_trainings_on_mnist_cost_what_their_table_says(
    sigma: float, epochs: int, published: float
) -> None:
    """TensorFlow Privacy's tutorial: 60,000 rows, batches of 256, delta 1e-5. Its conversion from Rényi divergence was
    a looser one."""
    spend = Spend(sigma, 256 / 60_000, epochs * 60_000 // 256)
    assert 0.8 * published < epsilon_of([spend], 1e-5) <= published


def test_releases_compose_below_the_sum_of_their_epsilons() -> None:
    one = epsilon_of([Spend(5.0)], 1e-6)
    ten = epsilon_of([Spend(5.0)] * 10, 1e-6)
    assert 2 * one < ten < 10 * one
    assert ten == pytest.approx(epsilon_of([Spend(5.0 / 10**0.5)], 1e-6), rel=0.02)


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], 1e-6) == 0.0


@pytest.mark.parametrize("epsilon", [0.1, 8.0])
def test_the_least_noise_is_just_enough(epsilon: float) -> None:
    sigma = noise_for(epsilon, 1e-6, lambda found: [Spend(found, 0.01, 500)])
    assert 0.98 * epsilon < epsilon_of([Spend(sigma, 0.01, 500)], 1e-6) <= epsilon


def test_an_epsilon_below_what_is_fixed_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="ask for a larger epsilon"):
        noise_for(0.5, 1e-6, lambda found: [Spend(1.0), Spend(found)])


def test_two_releases_of_one_sample_are_as_one_of_less_noise() -> None:
    assert epsilon_of([Spend(combined(2.0, 6.0))], 1e-6) == pytest.approx(
        epsilon_of([Spend(2.0), Spend(6.0)], 1e-6), rel=1e-6
    )
