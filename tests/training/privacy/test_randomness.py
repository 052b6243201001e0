"""Both sources have the distributions that the accountant assumes."""

import numpy as np
import pytest
from scipy.stats import kstest

from training.privacy.randomness import Randomness, SecureRandomness, SeededRandomness


@pytest.mark.parametrize("source", [SecureRandomness(), SeededRandomness(0)], ids=["secure", "seeded"])
def test_draws_are_uniform_and_normal(source: Randomness) -> None:
    uniform, normal = source.uniform(50_000), source.normal(50_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert kstest(uniform, "uniform").pvalue > 1e-4
    assert kstest(normal, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.03


def test_secure_draws_never_repeat_and_seeded_ones_do() -> None:
    secure = SecureRandomness()
    assert not np.array_equal(secure.uniform(10), secure.uniform(10))
    assert np.array_equal(SeededRandomness(3).normal(10), SeededRandomness(3).normal(10))


def test_none_is_fine() -> None:
    assert len(SecureRandomness().normal(0)) == 0
