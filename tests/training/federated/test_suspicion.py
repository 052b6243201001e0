"""Who spoils sums is found out: Bayes' rule exactly, groups as the beliefs demand, and attackers traced by both."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.federated import suspicion
from training.federated.suspicion import CLEAN, SUSPECT, Suspicion, dealt

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


def test_doubtful_clients_are_few_among_trusted_ones() -> None:
    chances = np.full(96, 0.001)
    chances[10:20] = 0.1
    groups = dealt(chances, 32)
    assert [int((chances[group] > 0.05).sum()) for group in groups] == [3, 3, 4]
    clean = [np.prod(1 - chances[group][chances[group] > 0.05]) for group in groups[:2]]
    assert min(clean) >= CLEAN > min(clean) * 0.9, "one more would be too many"


def test_suspects_are_with_suspects() -> None:
    server = Suspicion(np.full(100, 0.001))
    server.chances[:40] = 0.9
    others, suspects = server.dealt(np.arange(100), 32)
    assert (set(suspects), set(others)) == (set(range(40)), set(range(40, 100)))


def test_few_suspects_sit_out() -> None:
    server, clients = Suspicion(np.full(100, 0.001)), np.arange(30, 100)
    server.chances[[7, 50]] = 0.9
    grouped = np.concatenate(server.dealt(clients, 32))
    assert set(clients[grouped]) == set(range(30, 100)) - {50}


def played(
    server: Suspicion, attackers: NDArray[np.bool_], rounds: int, works: float = 1.0, rate: float = 0.16
) -> float:
    """The share of the honest clients in the last quarter of the rounds' cohorts who were in a good group."""
    rng = np.random.default_rng(0)
    counted = there = 0
    for number in range(rounds):
        clients = rng.permutation(np.flatnonzero(rng.random(len(attackers)) < rate))
        is_late = number >= rounds * 3 // 4
        there += is_late * int((~attackers[clients]).sum())
        for group in server.dealt(clients, 32):
            members = clients[group]
            spoilt = bool((attackers[members] & (rng.random(len(members)) < works)).any())
            server.note(members, spoilt)
            counted += is_late * (0 if spoilt else int((~attackers[members]).sum()))
    return counted / there


def some_of(clients: int, share: float) -> NDArray[np.bool_]:
    return np.random.default_rng(1).random(clients) < share


@pytest.mark.parametrize(("works", "guess"), [(1.0, 0.05), (1.0, 0.2), (1.0, 0.01), (0.7, 0.05)])
def test_attackers_are_traced(works: float, guess: float) -> None:
    """In random groups a fifth of the honest clients would count, three tenths if attackers idle now and then."""
    attackers = some_of(2_000, 0.05)
    server = Suspicion.new(len(attackers), guess)
    assert played(server, attackers, 300, works) > (0.99 if works == 1 else 0.98)
    assert np.mean(server.chances[~attackers] > SUSPECT) < 0.015, "hardly anybody honest is blamed"
    assert (server.chances[attackers] > SUSPECT).all()


@pytest.mark.parametrize(
    ("clients", "share", "rounds", "counted"),
    [(6_040, 0.05, 112, 0.74), (6_040, 0.05, 200, 1.0), (2_000, 0.1, 300, 0.92), (2_000, 0.1, 400, 1.0)],
)
def test_how_long_tracing_takes(clients: int, share: float, rounds: int, counted: float) -> None:
    """The figures of docs/privacy.md and ADR 32."""
    found = played(Suspicion.new(clients, 0.05), some_of(clients, share), rounds)
    assert found == pytest.approx(counted, abs=0.01)


def test_attackers_who_rarely_act_are_found_in_part() -> None:
    """The figures of docs/privacy.md: six in ten, and one honest client in eighteen with them."""
    attackers, server = some_of(2_000, 0.05), Suspicion.new(2_000, 0.05)
    played(server, attackers, 300, works=0.3)
    is_suspect = server.chances > SUSPECT
    assert is_suspect[attackers].mean() == pytest.approx(0.6, abs=0.02)
    assert is_suspect[~attackers].mean() == pytest.approx(1 / 18, abs=0.005)


def test_in_a_small_shop_with_one_group_attackers_are_traced_too() -> None:
    assert played(Suspicion.new(300, 0.05), some_of(300, 0.05), 600) > 0.9


def test_where_no_group_is_clean_nobody_is_found_out() -> None:
    """The limit that the documentation names."""
    assert played(Suspicion.new(2_000, 0.2), some_of(2_000, 0.2), 400) < 0.02


def test_without_attackers_nobody_is_suspected() -> None:
    server = Suspicion.new(2_000, 0.05)
    assert played(server, np.zeros(2_000, np.bool_), 40) > 0.99
    assert server.chances.max() <= 0.05


def test_who_was_trusted_and_attacks_is_found_out() -> None:
    attackers, server = some_of(2_000, 0.05), Suspicion.new(2_000, 0.05)
    played(server, attackers & False, 100)
    assert server.chances.max() < 0.01
    assert played(server, attackers, 300) > 0.9
