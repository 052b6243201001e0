"""Metrics against scikit-learn, brute force and their own definitions; the docstrings' examples run too."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from recsys import metrics

labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40)


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(metrics, extraglobs={"np": np})
    assert results.attempted >= 14
    assert results.failed == 0


@given(labelled)
def test_auc_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    if len(set(labels.tolist())) == 1:
        assert math.isnan(metrics.auc(labels, scores))
    else:
        assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


@given(labelled, st.integers(0, 1_000))
def test_gauc_weighs_users_by_impressions(rows: list[tuple[int, int]], seed: int) -> None:
    labels, scores = np.array(rows).T
    groups = np.random.default_rng(seed).integers(0, 3, len(labels))
    total, weight = 0.0, 0
    for group in range(3):
        mine = groups == group
        if 0 < labels[mine].sum() < mine.sum():
            total += mine.sum() * roc_auc_score(labels[mine], scores[mine])
            weight += int(mine.sum())
    found = metrics.gauc(labels, scores, groups)
    assert math.isnan(found) if weight == 0 else found == pytest.approx(total / weight)


def test_ndcg_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 30)), rng.integers(0, 30, 50)
    relevant = np.zeros_like(scores)
    relevant[np.arange(50), targets] = 1
    ranks = metrics.ranks_of(scores, targets)
    assert metrics.ndcg(ranks, 10) == pytest.approx(ndcg_score(relevant, scores, k=10))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30),
    st.integers(1, 6),
)
def test_ndcg_of_lists_is_scikit_learns(rows: list[tuple[int, bool, int]], k: int) -> None:
    """Lists of two rows and more with a positive; few different scores, so that there are ties."""
    lists, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics.list_ndcgs(labels.astype(int), scores.astype(float), lists, k)
    wanted = {}
    for number in set(lists.tolist()):
        own = lists == number
        if own.sum() > 1 and labels[own].any():
            wanted[number] = ndcg_score(labels[own][None], scores[own][None], k=k)
    assert dict(zip(lists[found[0]].tolist(), found[1].tolist(), strict=True)) == pytest.approx(wanted)


def test_a_constant_score_is_placed_in_the_middle() -> None:
    ranks = metrics.ranks_of(np.zeros((1, 101)), np.array([7]))
    assert ranks.tolist() == [50]


def test_several_relevant_items_by_hand() -> None:
    """Ranks 0 and 3 of two, 1 of one, 7, 8 and 9 of three, as one list of each case would have them."""
    ranks = np.array([[3, 0, -1], [1, -1, -1], [9, 7, 8]])
    assert metrics.hits(ranks, 2).tolist() == [1, 1, 0]
    assert metrics.recalls(ranks, 2).tolist() == [1 / 2, 1, 0]
    assert metrics.recalls(ranks, 9).tolist() == [1, 1, 2 / 3]
    assert metrics.reciprocal_ranks(ranks, 5).tolist() == [1, 1 / 2, 0]
    assert metrics.reciprocal_ranks(ranks).tolist() == [1, 1 / 2, 1 / 8]
    both = 1 + 1 / np.log2(3)
    assert metrics.ndcgs(ranks, 1).tolist() == [1, 0, 0]  # a list of one holds one of the two
    np.testing.assert_allclose(metrics.ndcgs(ranks, 5), [(1 + 1 / np.log2(5)) / both, 1 / np.log2(3), 0])


def test_equal_relevant_items_are_spread_over_their_places() -> None:
    scores = np.array([[0.5, 0.5, 0.5, 0.5, 0.5, 0.9], [0.5, 0.1, 0.5, 0.5, 0.5, 0.5]])
    ranks = metrics.ranks_of(scores, np.array([[0, 4], [2, 1]]))
    assert ranks.tolist() == [
        [2, 4],
        [2, 5],
    ]  # the five places behind the first in thirds; the middle; the last


@given(st.integers(0, 1_000), st.integers(1, 6), st.integers(1, 12))
def test_metrics_of_several_items_are_those_of_a_list(seed: int, wanted: int, k: int) -> None:
    """Against scikit-learn, and against the list itself, without ties."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(12)[None].astype(float)
    targets = rng.permutation(12)[None, :wanted]
    relevant = np.zeros((1, 12))
    relevant[0, targets] = 1
    ranks = metrics.ranks_of(scores, targets)
    first = set(np.argsort(-scores[0])[:k].tolist()) & set(targets[0].tolist())
    assert metrics.recalls(ranks, k)[0] == len(first) / wanted
    assert metrics.hits(ranks, k)[0] == bool(first)
    assert metrics.ndcgs(ranks, k)[0] == pytest.approx(ndcg_score(relevant, scores, k=k))


@given(st.lists(st.integers(0, 3), min_size=3, max_size=12), st.integers(1, 3))
def test_no_two_relevant_items_share_a_rank(scores: list[int], wanted: int) -> None:
    ranks = metrics.ranks_of(np.array([scores], float), np.arange(wanted)[None])[0]
    assert len(set(ranks.tolist())) == wanted
    assert 0 <= ranks.min() <= ranks.max() < len(scores)
    for k in (1, 2, 5):
        assert metrics.recalls(ranks[None], k)[0] * wanted <= k
        assert metrics.ndcgs(ranks[None], k)[0] <= 1 + 1e-12


def test_hidden_items_do_not_count() -> None:
    scores = np.array([[-np.inf, 0.5, -np.inf, 0.7]])
    assert metrics.ranks_of(scores, np.array([1])).tolist() == [1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 20))
def test_hit_rate_bounds_ndcg_and_grows_with_k(ranks: list[int], k: int) -> None:
    array = np.array(ranks)
    assert 0 <= metrics.ndcg(array, k) <= metrics.hit_rate(array, k) <= metrics.hit_rate(array, k + 1) <= 1


def test_xauc_by_brute_force_and_by_sampling() -> None:
    rng = np.random.default_rng(1)
    values, predictions = rng.integers(0, 9, 200).astype(float), rng.integers(0, 9, 200).astype(float)
    agree = [
        (np.sign(values[a] - values[b]) * np.sign(predictions[a] - predictions[b]) + 1) / 2
        for a in range(200)
        for b in range(a)
        if values[a] != values[b]
    ]
    exact = metrics.xauc(values, predictions)
    assert exact == pytest.approx(np.mean(agree))
    assert metrics.xauc(values, predictions, pairs=15_000) == pytest.approx(exact, abs=0.02)


def test_calibration_error_of_a_calibrated_and_of_a_doubled_score() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.random(50_000) / 2
    labels = (rng.random(50_000) < probabilities).astype(int)
    assert metrics.calibration_error(labels, probabilities) < 0.01
    assert metrics.calibration_error(labels, 2 * probabilities) == pytest.approx(0.25, abs=0.01)


def test_gini_by_its_definition_as_mean_difference() -> None:
    lists = np.random.default_rng(3).integers(0, 8, (40, 5))
    counts = np.bincount(lists.ravel(), minlength=10)
    differences = np.abs(counts[:, None] - counts[None, :]).sum()
    assert metrics.gini(lists, 10) == pytest.approx(differences / (2 * 10 * counts.sum()))


def test_nothing_to_measure_is_nan_not_a_warning() -> None:
    assert math.isnan(metrics.hit_rate(np.array([], np.int64), 10))
    assert math.isnan(metrics.gini(np.full((2, 3), -1), 4))
    assert math.isnan(metrics.calibration_error(np.array([]), np.array([])))
