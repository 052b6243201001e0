"""Neighbours of all items at once, against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.evaluation.benchmarks.vectors import learnt_like
from recsys.recall import nearest as module
from recsys.recall.nearest import nearest
from recsys.recall.vector_index import NO_ROW, Found


def _true(vectors: NDArray[np.float32], m: int) -> NDArray[np.float32]:
    """(n, m) inner products with the m nearest others."""
    products = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    return np.asarray(-np.sort(-products, axis=1)[:, :m])


def _check(found: Found, vectors: NDArray[np.float32], rows: NDArray[np.int32]) -> None:
    """What every result keeps: scores that are the rows', falling; nobody twice; never the item itself; padded."""
    for row, near, scores in zip(rows, found.rows, found.scores, strict=True):
        some = near != NO_ROW
        assert not some[int(some.sum()) :].any() and (scores[~some] == -np.inf).all()
        assert row not in near[some] and len(set(near[some])) == some.sum()
        np.testing.assert_allclose(vectors[near[some]] @ vectors[row], scores[some], atol=1e-5)
        assert (np.diff(scores[some]) <= 0).all()


@given(n=st.integers(0, 40), m=st.integers(1, 12), same=st.booleans(), data=st.data())
def test_a_small_table_is_exact(n: int, m: int, same: bool, data: st.DataObject) -> None:
    """`same`: many equal vectors, so that an item need not be its own nearest."""
    vectors = learnt_like(max(n, 1), 4, 1, seed=n).items[:n]
    vectors = np.repeat(vectors[: n // 4 + 1], 4, axis=0)[:n] if same else vectors
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True)) if n else []
    rows = np.array(chosen, np.int32)
    true = _true(vectors, m) if n else np.empty((0, m), np.float32)
    for found, asked in (
        (nearest(vectors, m), np.arange(n, dtype=np.int32)),
        (nearest(vectors, m, rows), rows),
    ):
        assert found.rows.shape == found.scores.shape == (len(asked), m)
        _check(found, vectors, asked)
        kept = min(m, max(n - 1, 0))
        np.testing.assert_allclose(found.scores[:, :kept], true[asked][:, :kept], atol=1e-5)


def test_beyond_the_limit_clusters_find_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    n, m = 6_000, 20
    vectors = learnt_like(n, 16, 1, seed=0).items
    exact = nearest(vectors, m)
    monkeypatch.setattr(module, "EXACT_UP_TO", 1_000)
    found = nearest(vectors, m, compared=1_500)
    _check(found, vectors, np.arange(n, dtype=np.int32))
    pairs = zip(found.rows.tolist(), exact.rows.tolist(), strict=True)
    assert np.mean([len(set(ours) & set(true)) / m for ours, true in pairs]) > 0.95
    rows = np.random.default_rng(0).choice(n, 500, replace=False).astype(np.int32)
    some = nearest(vectors, m, rows, compared=1_500)
    assert (some.rows == found.rows[rows]).mean() > 0.999  # ties apart
    few = nearest(vectors, m, rows, compared=1)
    _check(few, vectors, rows)
    assert few.scores.sum() < some.scores.sum()


def test_equal_vectors_do_not_compare_each_item_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that nobody has seen and that have no attributes have one vector."""
    vectors = learnt_like(3_000, 8, 1, seed=2).items
    vectors[1_000:] = vectors[0]
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    monkeypatch.setattr(module, "_CROWD", 4)
    rows = np.arange(3_000, dtype=np.int32)
    assert max(len(members) for _, members in module._groups(vectors, rows, 100, 0)) <= 400
    found = nearest(vectors, 10, compared=100)
    _check(found, vectors, rows)
    np.testing.assert_allclose(found.scores[1_000:], 1.0, atol=1e-5)


def test_clusters_with_too_few_members_leave_places_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = learnt_like(2_000, 8, 1, seed=1).items
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    found = nearest(vectors, 500, compared=1)
    _check(found, vectors, np.arange(2_000, dtype=np.int32))
    assert (found.rows == NO_ROW).any()
