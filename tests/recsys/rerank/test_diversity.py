"""The greedy objectives compared with slow, literal versions of their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.items.catalogue import NO_CODE
from recsys.rerank.diversity import (
    DeterminantalPointProcess,
    MaximalMarginalRelevance,
    Relevance,
    SamenessFatigue,
    scaled,
    unit,
)
from recsys.rerank.greedy import Cap, greedy

Floats = NDArray[np.float32]


def candidates(seed: int, n: int = 12, d: int = 6) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    return scaled(random.random(n, np.float32)), unit(random.standard_normal((n, d), np.float32))


def chosen(objective: object, n: int, k: int) -> list[int]:
    return list(greedy(objective, n, range(k)).values())  # type: ignore[arg-type]


def literal_mmr(relevance: Floats, vectors: Floats, diversity: float, k: int) -> list[int]:
    picked: list[int] = []
    for _ in range(k):
        left = [i for i in range(len(relevance)) if i not in picked]
        picked.append(
            max(
                left,
                key=lambda i: (
                    (1 - diversity) * relevance[i]
                    - (diversity * max(vectors[i] @ vectors[j] for j in picked) if picked else 0)
                ),
            )
        )
    return picked


def dpp_kernel(relevance: Floats, vectors: Floats, diversity: float) -> NDArray[np.float64]:
    quality = np.exp((1 - diversity) / (2 * diversity) * relevance.astype(float))
    similar = (1 + vectors.astype(float) @ vectors.T.astype(float)) / 2
    kernel: NDArray[np.float64] = quality[:, None] * similar * quality[None, :]
    return kernel


def literal_dpp(kernel: NDArray[np.float64], k: int) -> list[int]:
    picked: list[int] = []
    for _ in range(k):
        left = [i for i in range(len(kernel)) if i not in picked]
        picked.append(max(left, key=lambda i: np.linalg.det(kernel[np.ix_([*picked, i], [*picked, i])])))
    return picked


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_mmr_follows_its_definition(seed: int, diversity: float) -> None:
    relevance, vectors = candidates(seed)
    found = chosen(MaximalMarginalRelevance(relevance, vectors, diversity), len(relevance), 6)
    assert found == literal_mmr(relevance, vectors, diversity, 6)


@pytest.mark.parametrize("diversity", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_greedy_dpp_maximises_the_determinant_step_by_step(seed: int, diversity: float) -> None:
    relevance, vectors = candidates(seed)
    found = chosen(DeterminantalPointProcess(relevance, vectors, diversity), len(relevance), 5)
    assert found == literal_dpp(dpp_kernel(relevance, vectors, diversity), 5)


@pytest.mark.parametrize("objective", [MaximalMarginalRelevance, DeterminantalPointProcess])
def test_of_two_equal_items_the_second_waits_for_a_different_one(objective: type) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    relevance = np.array([1.0, 0.99, 0.6], np.float32)
    assert chosen(Relevance(relevance), 3, 3) == [0, 1, 2]
    assert chosen(objective(relevance, vectors, 0.5), 3, 3) == [0, 2, 1]


def test_dpp_continues_when_the_vectors_are_exhausted() -> None:
    relevance = np.linspace(1, 0, 8).astype(np.float32)
    vectors = np.ones((8, 2), np.float32) / np.sqrt(np.float32(2))
    found = chosen(DeterminantalPointProcess(relevance, vectors, 0.5), 8, 8)
    assert sorted(found) == list(range(8))


def test_items_without_a_vector_are_ranked_by_relevance() -> None:
    relevance, vectors = np.array([0.2, 1.0, 0.5], np.float32), np.zeros((3, 4), np.float32)
    assert chosen(MaximalMarginalRelevance(relevance, unit(vectors), 0.5), 3, 3) == [1, 2, 0]


def test_scaled_handles_equal_scores_and_none() -> None:
    assert scaled(np.array([2, 2], np.float32)).tolist() == [1, 1]
    assert scaled(np.array([-1, 3, 1], np.float32)).tolist() == [0, 1, 0.5]
    assert len(scaled(np.empty(0, np.float32))) == 0


@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_caps_hold_whenever_the_list_can_be_filled_without_breaking_them(
    codes: list[int], most: int, k: int, seed: int
) -> None:
    k = min(k, len(codes))
    relevance = np.random.default_rng(seed).random(len(codes), np.float32)
    cap = Cap(np.array(codes, np.int32), most)
    found = list(greedy(Relevance(relevance), len(codes), range(k), [cap]).values())
    assert len(set(found)) == k
    counts = {code: sum(codes[i] == code for i in found) for code in set(codes)}
    possible = sum(codes.count(c) if c == -1 else min(most, codes.count(c)) for c in set(codes))
    if possible >= k:
        assert all(count <= most for code, count in counts.items() if code != -1)


def test_a_pin_takes_its_place_and_counts_towards_the_cap() -> None:
    relevance = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    cap = Cap(np.array([5, 6, 6, 5], np.int32), 1)
    found = greedy(Relevance(relevance), 4, range(2), [cap], {0: 3})
    assert found == {0: 3, 1: 1}


def test_fatigue_lowers_what_comes_after_others_of_its_kind() -> None:
    value = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    click = np.array([0.5, 0.5, 0.5, 0.2], np.float32)
    kinds = np.array([3, 3, 7, NO_CODE], np.int32)
    objective = SamenessFatigue(value, click, kinds, -1.0)
    np.testing.assert_allclose(objective.gains(), value, rtol=1e-6)
    objective.choose(0, place=0)  # surely looked at
    tired = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(objective.gains()[1:], [0.8 * tired / 0.5, 0.7, 0.6], rtol=1e-6)
    objective.choose(1, place=9)  # hardly
    np.testing.assert_allclose(objective.gains()[0], 0.9 / (1 + np.exp(1.289)) / 0.5, rtol=1e-6)
    objective.choose(3, place=1)
    np.testing.assert_allclose(objective.gains()[[2, 3]], [0.7, 0.6], rtol=1e-6)


def test_without_fatigue_in_the_log_the_order_is_relevance() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=20).astype(np.float32)
    objective = SamenessFatigue(value, rng.random(20).astype(np.float32), np.zeros(20, np.int32), 0.0)
    objective.choose(4, place=0)
    np.testing.assert_allclose(objective.gains(), value, rtol=1e-5)
