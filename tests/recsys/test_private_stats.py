"""The discrete Gaussian against its exact probabilities, and what one user can change."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from scipy.stats import chisquare

from recsys.private_stats import Below, bernoulli_exp, discrete_gaussian, discrete_laplace, private_counts


def seeded(seed: int) -> Below:
    return random.Random(seed).randrange


@pytest.mark.parametrize("exponent", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(7, 3)])
def test_a_coin_falls_with_the_exact_probability(exponent: Fraction) -> None:
    below, n = seeded(1), 10_000
    heads = sum(bernoulli_exp(exponent, below) for _ in range(n))
    expected = n * math.exp(-exponent)
    assert abs(heads - expected) <= 4 * math.sqrt(expected * (1 - expected / n)) + 1e-9


@pytest.mark.parametrize("variance", [Fraction(1, 2), Fraction(100, 7)])
def test_the_noise_has_the_distribution_of_the_discrete_gaussian(variance: Fraction) -> None:
    below, n = seeded(2), 10_000
    drawn = Counter(discrete_gaussian(variance, below) for _ in range(n))
    reach = math.ceil(3 * math.sqrt(variance))
    weights = {k: math.exp(-(k**2) / (2 * variance)) for k in range(-20 * reach, 20 * reach + 1)}
    inside = {k: n * w / sum(weights.values()) for k, w in weights.items() if abs(k) <= reach}
    observed = [drawn[k] for k in inside]
    outside = n - sum(inside.values())
    assert chisquare([*observed, n - sum(observed)], [*inside.values(), outside]).pvalue > 0.001


def test_the_laplace_noise_has_its_distribution() -> None:
    below, n, scale = seeded(3), 10_000, 3
    drawn = Counter(discrete_laplace(scale, below) for _ in range(n))
    each = {k: math.exp(-abs(k) / scale) for k in range(-200, 201)}
    inside = {k: n * w / sum(each.values()) for k, w in each.items() if abs(k) <= 9}
    observed = [drawn[k] for k in inside]
    rest = n - sum(inside.values())
    assert chisquare([*observed, n - sum(observed)], [*inside.values(), rest]).pvalue > 0.001


def test_a_user_counts_for_at_most_so_many_different_items_of_the_catalogue() -> None:
    tiny = Fraction(1, 10_000)  # no noise: exp(-5000) for ± 1
    users = [["a", "a", "x", "b", "c"], ["b"]]
    assert private_counts(users, ["a", "b", "c"], 2, tiny) == {"a": 1, "b": 2, "c": 0}


def test_every_item_gets_noise_and_no_count_is_negative() -> None:
    counts = private_counts([], [f"i{n}" for n in range(200)], 1, Fraction(25), seeded(4))
    assert min(counts.values()) == 0
    assert 60 < sum(n > 0 for n in counts.values()) < 140
