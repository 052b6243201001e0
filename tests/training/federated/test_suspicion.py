"""Who spoils sums is found out: Bayes' rule exactly, groups as the beliefs demand, and attackers traced by both."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.federated import suspicion
from training.federated.suspicion import CLEAN, Suspicion, dealt

CHANCES = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=7)


@given(own=CHANCES, is_spoilt=st.booleans())
def test_a_belief_is_what_bayes_rule_says(own: list[float], is_spoilt: bool) -> None:
    """Against the sum over all that may be attackers: a sum is good if each of them idles and nothing else is wrong."""
    likely = np.zeros(len(own))
    total = 0.0
    for who in product((False, True), repeat=len(own)):
        weight = float(np.prod([p if bad else 1 - p for p, bad in zip(own, who, strict=True)]))
        good = (1 - suspicion._WRONG) * suspicion._IDLE ** sum(who)
        weight *= 1 - good if is_spoilt else good
        total += weight
        likely += np.where(who, weight, 0)
    server = Suspicion(np.array([0.3, *own]))
    server.note(np.arange(1, len(own) + 1), is_spoilt)
    np.testing.assert_allclose(server.chances[1:], np.clip(likely / total, 1e-3, 1 - 1e-3), rtol=1e-9)
    assert server.chances[0] == 0.3, "who was not there is as before"


@given(chances=st.lists(st.floats(0, 0.999), max_size=300), size=st.integers(2, 40))
def test_everybody_is_in_one_group_and_groups_are_large_enough(chances: list[float], size: int) -> None:
    groups = dealt(np.array(chances), size)
    assert sorted(place for group in groups for place in group) == list(
        range(len(chances) if len(chances) >= size else 0)
    )
    assert all(size <= len(group) < 2 * size for group in groups)
    assert len(groups) == len(chances) // size


def test_likely_attackers_are_together_and_doubtful_ones_among_trusted() -> None:
    chances = np.full(96, 0.001)
    chances[[5, 50, 95]], chances[10:20] = 0.9, 0.1
    worst, *_ = dealt(chances, 32)
    assert {5, 50, 95} < set(worst)
    assert set(range(10, 20)) < set(worst), "who fills that group is lost, so not the trusted"
    chances[[5, 50, 95]] = 0.001
    groups = dealt(chances, 32)
    assert [int((chances[group] > 0.05).sum()) for group in groups] == [3, 3, 4]
    clean = [np.prod(1 - chances[group][chances[group] > 0.05]) for group in groups[:2]]
    assert min(clean) >= CLEAN > min(clean) * 0.9, "one more would be too many"


def test_before_anything_is_known_groups_are_random() -> None:
    order = np.random.default_rng(0).permutation(64)
    groups = [order[group] for group in dealt(np.full(64, 0.05)[order], 32)]
    assert len(set(groups[0].tolist()) & set(range(32))) not in (0, 32)


def found(
    attackers: NDArray[np.bool_], works: float, rounds: int, prior: float = 0.05
) -> tuple[float, Suspicion]:
    """The share of those who took part in the last quarter of the rounds and were in a clean group."""
    rng = np.random.default_rng(0)
    server = Suspicion.new(len(attackers), prior)
    counted = there = 0
    for number in range(rounds):
        clients = rng.permutation(np.flatnonzero(rng.random(len(attackers)) < 0.15))
        for group in dealt(server.chances[clients], 32):
            members = clients[group]
            spoilt = bool((attackers[members] & (rng.random(len(members)) < works)).any())
            server.note(members, spoilt)
            if number >= rounds * 3 // 4:
                there += len(members)
                counted += 0 if spoilt else len(members)
    return counted / there, server


@pytest.mark.parametrize(("works", "prior"), [(1.0, 0.05), (1.0, 0.2), (1.0, 0.01), (0.7, 0.05)])
def test_attackers_are_traced(works: float, prior: float) -> None:
    """Random groups would leave .18 of the clients, .29 if attackers idle now and then. With all of them known it is
    .89: one group of nine is theirs."""
    attackers = np.random.default_rng(1).random(2_000) < 0.05
    share, server = found(attackers, works, 200, prior)
    assert share > 0.75
    assert np.mean(server.chances[~attackers] > 0.5) < 0.02, "hardly anybody honest is blamed"


def test_without_attackers_nobody_is_suspected() -> None:
    share, server = found(np.zeros(2_000, np.bool_), 1.0, 40)
    assert share == 1
    assert server.chances.max() <= 0.05


def test_who_was_trusted_and_attacks_is_found_out() -> None:
    attackers = np.random.default_rng(1).random(2_000) < 0.02
    _, server = found(attackers & False, 1.0, 60)
    rng = np.random.default_rng(3)
    for _ in range(120):
        clients = rng.permutation(np.flatnonzero(rng.random(2_000) < 0.15))
        for group in dealt(server.chances[clients], 32):
            server.note(clients[group], bool(attackers[clients[group]].any()))
    assert np.median(server.chances[attackers]) > 0.5
    assert np.mean(server.chances[~attackers] > 0.5) < 0.02
