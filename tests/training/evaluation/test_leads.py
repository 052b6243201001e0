"""Intervals of a difference: they cover a known lead, include zero where there is none, and draw whole users."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.bootstrap import Estimate, mean_differences

USERS = np.repeat(np.arange(400), 3)
Floats = NDArray[np.float64]


def mean_difference(
    ours: Floats, theirs: Floats, users: NDArray[np.generic], rounds: int = 1_000
) -> Estimate:
    (found,) = mean_differences(ours[None], theirs[None], users, rounds)
    return found


def test_a_known_lead_is_found_although_the_noise_is_larger() -> None:
    """Both models share the noise of a case, which pairing removes."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, len(USERS))
    ours, theirs = shared + 0.05 + rng.normal(0, 0.1, len(USERS)), shared
    found = mean_difference(ours, theirs, USERS)
    assert found.value == pytest.approx((ours - theirs).mean())
    assert 0 < found.low < 0.05 < found.high
    assert found.high - found.low < 0.02


def test_no_lead_is_none() -> None:
    rng = np.random.default_rng(1)
    excluded = 0
    for _ in range(40):
        ours, theirs = rng.random((2, len(USERS))) < 0.2
        found = mean_difference(ours.astype(float), theirs.astype(float), USERS, rounds=200)
        assert found.low < found.value < found.high
        excluded += not found.low <= 0 <= found.high
    assert excluded <= 6  # 2 of 40 on average


def test_the_cases_of_one_user_are_not_independent() -> None:
    """Ten copies of each case tell no more than one, if they are one user's."""
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((2, 200))
    once = mean_difference(ours, theirs, np.arange(200))
    copies = mean_difference(np.repeat(ours, 10), np.repeat(theirs, 10), np.repeat(np.arange(200), 10))
    assert (copies.value, copies.low, copies.high) == pytest.approx((once.value, once.low, once.high))


def test_users_count_by_their_cases() -> None:
    found = mean_difference(np.array([1.0, 0, 0, 0]), np.zeros(4), np.array(["a", "b", "b", "b"]))
    assert found.value == 0.25


def test_a_draw_without_any_user_does_not_count() -> None:
    found = mean_difference(np.array([1.0]), np.array([0.5]), np.array(["only"]))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
