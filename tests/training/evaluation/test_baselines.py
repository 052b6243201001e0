"""Recall baselines against brute force, and what they take of the memory."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from tests.training.evaluation.histories import history
from training.evaluation import baselines
from training.evaluation.baselines import GRID, TrainingHistories, tuned
from training.two_tower.cooccurrence import filled_up, interactions, item_neighbours, popularity
from training.two_tower.ease import item_weights
from training.two_tower.retrieval import Cases, next_item_ranks, scored
from training.two_tower.sequences import History

HISTORIES = [
    history(f"u{u}", *(np.random.default_rng(u).permutation(12)[: 3 + u % 5] + 1)) for u in range(40)
]


def test_neighbours_by_brute_force() -> None:
    seen = interactions(HISTORIES, 12)
    dense = seen.toarray()
    both = dense.T @ dense
    counts = np.diag(both).copy()
    expected = both / (np.sqrt(np.outer(counts, counts)) + 2.0)
    np.fill_diagonal(expected, 0)
    neighbours, scores = item_neighbours(seen, m=5, shrink=2.0, pairs=30)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, neighbours.astype(int), 1), scores, rtol=1e-5)
    ties = np.argsort(-expected.astype(np.float32), axis=1, kind="stable")[:, :5]
    assert np.array_equal(neighbours, np.where(scores > 0, ties, -1))  # in the order of the rows
    whole = item_neighbours(seen, m=5, shrink=2.0)
    assert np.array_equal(whole[0], neighbours) and np.array_equal(whole[1], scores)
    few, _ = item_neighbours(interactions([history("u", 1, 2)], 4), m=5)
    assert few.tolist() == [[1, -1, -1, -1, -1], [0, -1, -1, -1, -1], [-1] * 5, [-1] * 5]


def test_empty_places_get_the_nearest_vectors_behind_what_co_occurs() -> None:
    angles = np.array([0.0, 0.1, 0.3, 2.0], np.float32)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    neighbours = np.array([[3, -1], [-1, -1], [-1, -1], [0, 1]], np.int32)
    scores = np.array([[0.4, 0], [0, 0], [0, 0], [0.4, 0.2]], np.float32)
    near, similar = filled_up(neighbours, scores, vectors)
    assert near.tolist() == [[3, 1], [0, 2], [1, 0], [0, 1]]
    np.testing.assert_allclose(similar[0], [0.4, 0.2 * np.cos(0.1)], rtol=1e-5)
    np.testing.assert_allclose(similar[1], [0.1 * np.cos(0.1), 0.1 * np.cos(0.2)], rtol=1e-5)
    assert (neighbours[1] == -1).all()
    few, _ = filled_up(np.full((2, 4), -1, np.int32), np.zeros((2, 4), np.float32), vectors[:2])
    assert few.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1]]
    none, _ = filled_up(np.empty((0, 4), np.int32), np.empty((0, 4), np.float32), vectors[:0])
    assert none.shape == (0, 4)


def test_popularity_decays_by_half_a_half_life() -> None:
    day = 86_400_000
    old = History("u", np.array([1, 2]), np.array([2, 2]), np.array([day, 15 * day]))
    assert popularity([old], 3).tolist() == [1, 1, 0]
    assert popularity([old], 3, half_life_days=14).tolist() == [0.5, 1, 0]
    timeless = old._replace(times=np.zeros(2, np.int64))
    assert popularity([timeless], 3, half_life_days=14).tolist() == [1, 1, 0]


def test_recent_popularity_beats_what_was_popular_long_ago() -> None:
    old = [history(f"o{u}", 1) for u in range(5)]
    new = [history(f"n{u}", 2, start_ms=100 * 86_400_000) for u in range(2)]
    train = TrainingHistories([*old, *new], 3)
    assert baselines.popularity(train)(old[:1], [0]).tolist() == [[5, 2, 0]]
    assert baselines.recent_popularity(1.0)(train)(old[:1], [0]).argmax() == 1


def test_ease_solves_its_least_squares_problem() -> None:
    """Each column of B minimises |x_j - X b|² + λ |b|² with b_j = 0."""
    seen = interactions(HISTORIES, 12)
    x = seen.toarray().astype(float)
    scores = baselines.ease(3.0)(TrainingHistories(HISTORIES, 12))(HISTORIES, [0] * len(HISTORIES))
    for item in (0, 7):
        others = [i for i in range(12) if i != item]
        gram = x[:, others].T @ x[:, others] + 3.0 * np.eye(11)
        weights = np.linalg.solve(gram, x[:, others].T @ x[:, item])
        np.testing.assert_allclose(scores[:, item], x[:, others] @ weights, atol=1e-4)


@pytest.mark.parametrize("fit", [baselines.item_knn(5, 1.0), baselines.ease(1.0), baselines.als(8, 5.0)])
def test_baselines_find_what_always_goes_together(fit: baselines.Fit) -> None:
    pairs = [history(f"u{u}", 2 * (u % 6) + 1, 2 * (u % 6) + 2) for u in range(60)]
    scorer = fit(TrainingHistories(pairs, 12))
    cases = Cases([history("new", 5), history("new", 12)], [np.array([5]), np.array([10])], [0, 0])
    assert next_item_ranks(scorer, cases, 12).tolist() == [0, 0]


CASES = Cases([history("u0", 1, 2), history("u1", 3)], [np.array([4]), np.array([5])], [0, 0])


def test_a_baseline_that_takes_too_much_memory_is_left_out_and_says_so() -> None:
    found = {b.name: b for b in tuned(HISTORIES, CASES, HISTORIES, 12, memory_gib=1e-7)}
    assert found.keys() == GRID.keys()
    assert [name for name, b in found.items() if b.scorer] == ["popularity"]  # 96 of 107 bytes
    assert found["ease"].settings == "12 items take 0.0 GiB; at most 0.0 are allowed"
    assert all(b.scorer for b in tuned(HISTORIES, CASES, HISTORIES, 12))


def test_ease_takes_four_bytes_per_pair_of_items() -> None:
    assert GRID["ease"].n_bytes(1_000_000, 50_000) == 4 * 50_000**2
    weights = item_weights(interactions(HISTORIES, 12), 3.0)
    assert weights.nbytes == 4 * 12**2
    assert weights.flags.c_contiguous, "each product with a user's items would copy it"


@given(st.integers(1, 40), st.floats(1, 1_000), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_ease_in_place_and_in_blocks_is_the_closed_form(
    n_items: int, regularisation: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    seen = sparse.csr_matrix((rng.random((30, n_items)) < 0.3).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.two_tower.ease._BLOCK", 7)
        weights = item_weights(seen, regularisation)
    x = seen.toarray().astype(float)
    inverse = np.linalg.inv(x.T @ x + regularisation * np.eye(n_items))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_scores_of_a_large_catalogue_come_in_small_batches() -> None:
    asked: list[int] = []

    def scorer(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        asked.append(len(histories))
        return np.zeros((len(histories), 8), np.float32)

    cases = Cases([history("u", 1)] * 300, [np.array([2])] * 300, [0] * 300)
    assert [len(places) for places, _ in scored(scorer, cases, 8)] == asked == [128, 128, 44]
    asked.clear()
    assert sum(len(places) for places, _ in scored(scorer, cases, 2**22)) == 300
    assert max(asked) == 4
