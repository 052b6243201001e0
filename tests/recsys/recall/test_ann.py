"""The FAISS wrapper compared with exact search by numpy, and FAISS's edge cases."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.recall.ann import EXACT_UP_TO, AnnIndex, IndexConfig, choose, chosen_for
from recsys.recall.index_kind import Kind
from recsys.recall.item_vectors import ItemVectors, LinearPart
from recsys.recall.vector_index import NO_ROW, VectorIndex

Floats = NDArray[np.float32]


def clustered(n: int, d: int = 16, clusters: int = 20, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, d), np.float32)
    vectors: Floats = centres[random.integers(0, clusters, n)] + 0.3 * random.standard_normal(
        (n, d), np.float32
    )
    return vectors


def exact(vectors: Floats, queries: Floats, k: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = np.argsort(-(queries @ vectors.T), axis=1)[:, :k]
    return order


VECTORS = clustered(3000)
QUERIES = clustered(20, seed=1)


@pytest.mark.parametrize(
    ("kind", "recall"),
    [(Kind.FLAT, 1.0), (Kind.SQ8, 0.97), (Kind.HNSW, 0.9), (Kind.IVF_FLAT, 0.9), (Kind.IVF_SQ8, 0.9)],
)
def test_every_kind_agrees_with_exact_search(kind: Kind, recall: float) -> None:
    index: VectorIndex = AnnIndex.build(
        VECTORS, IndexConfig(kind, lists=32, effort=200 if kind is Kind.HNSW else 16)
    )
    found = index.search(QUERIES, 50)
    wanted = exact(VECTORS, QUERIES, 50)
    hits = [len(set(found.of(q).tolist()) & set(wanted[q].tolist())) / 50 for q in range(len(QUERIES))]
    assert np.mean(hits) >= recall
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.rows.dtype == np.int32
    assert found.scores.dtype == np.float32


@pytest.mark.parametrize("kind", list(Kind))
def test_a_k_beyond_the_index_returns_all_items(kind: Kind) -> None:
    index = AnnIndex.build(VECTORS[:7], IndexConfig(kind))
    found = index.search(QUERIES[:2], 50)
    assert found.rows.shape == (2, 7)
    assert sorted(found.of(0).tolist()) == list(range(7))


@pytest.mark.parametrize("kind", list(Kind))
def test_nothing_is_found_in_an_empty_index(kind: Kind) -> None:
    index = AnnIndex.build(np.empty((0, 16), np.float32), IndexConfig(kind))
    assert len(index) == 0
    assert index.search(QUERIES, 5).rows.shape == (20, 0)


@pytest.mark.parametrize("kind", list(Kind))
def test_results_are_the_callers_rows(kind: Kind) -> None:
    rows = np.arange(len(VECTORS), dtype=np.int32)[::-1] * 3
    index = AnnIndex.build(VECTORS, IndexConfig(kind, lists=16, effort=64), rows)
    assert index.search(VECTORS[5:6] * 10, 1).of(0)[0] % 3 == 0
    flat = AnnIndex.build(VECTORS, IndexConfig(), rows)
    np.testing.assert_array_equal(flat.search(QUERIES, 9).rows, rows[exact(VECTORS, QUERIES, 9)])


def test_short_results_are_padded_with_no_row_at_minus_infinity() -> None:
    index = AnnIndex.build(VECTORS, IndexConfig(Kind.IVF_FLAT, lists=64, effort=1))
    found = index.search(QUERIES, 2000)
    missing = found.rows == NO_ROW
    assert missing.any()
    assert (found.scores[missing] == -np.inf).all()
    assert np.isfinite(found.scores[~missing]).all()
    assert len(found.of(0)) == (~missing[0]).sum()


@pytest.mark.parametrize("kind", list(Kind))
def test_a_loaded_index_searches_like_the_saved_one(tmp_path: Path, kind: Kind) -> None:
    index = AnnIndex.build(VECTORS, IndexConfig(kind, effort=7))
    index.save(tmp_path / "index.faiss")
    loaded = AnnIndex.load(tmp_path / "index.faiss")
    assert (len(loaded), loaded.dimension) == (3000, 16)
    np.testing.assert_array_equal(loaded.search(QUERIES, 30).rows, index.search(QUERIES, 30).rows)


def test_building_is_deterministic() -> None:
    first, second = (AnnIndex.build(VECTORS, IndexConfig(Kind.IVF_SQ8)).search(QUERIES, 99) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)


def test_the_number_of_items_chooses_the_kind() -> None:
    assert choose(EXACT_UP_TO).kind is Kind.FLAT
    assert choose(EXACT_UP_TO + 1).kind is Kind.IVF_SQ8
    many = np.zeros((EXACT_UP_TO + 1, 2), np.float32)
    assert chosen_for(ItemVectors(many)).kind is Kind.IVF_SQ8
    assert chosen_for(ItemVectors(many, None, LinearPart(many, many))).kind is Kind.FLAT


def test_a_file_that_is_not_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="not a FAISS index"):
        AnnIndex.load(tmp_path / "missing.faiss")
    (tmp_path / "broken.faiss").write_bytes(b"not an index")
    with pytest.raises(InvalidBundle, match="not a FAISS index"):
        AnnIndex.load(tmp_path / "broken.faiss")


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.zeros((1, 3), np.float32), 5, r"\(B, 16\)"),
        (np.zeros(16, np.float32), 5, "shape"),
        (QUERIES, 0, "k: "),
    ],
)
def test_invalid_queries_are_refused(queries: Floats, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnIndex.build(VECTORS).search(queries, k)


def test_vectors_with_nan_are_refused() -> None:
    broken = VECTORS.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        AnnIndex.build(broken)
