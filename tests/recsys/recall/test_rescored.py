import numpy as np

from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.rescored import RescoredIndex, with_margin
from recsys.recall.vector_index import NO_ROW, VectorIndex
from tests.recsys.recall.test_ann import QUERIES, VECTORS, exact


def test_rescoring_corrects_the_order_of_codes() -> None:
    codes = AnnIndex.build(VECTORS, IndexConfig(Kind.SQ8))
    index: VectorIndex = RescoredIndex(codes, VECTORS.__getitem__)
    wanted = exact(VECTORS, QUERIES, 50)
    assert not np.array_equal(codes.search(QUERIES, 50).rows, wanted)
    found = index.search(QUERIES, 50)
    np.testing.assert_array_equal(found.rows, wanted)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(QUERIES @ VECTORS.T, wanted, axis=1), rtol=1e-4
    )
    assert (len(index), index.dimension) == (3000, 16)


def test_missing_results_stay_missing() -> None:
    lists = AnnIndex.build(VECTORS, IndexConfig(Kind.IVF_SQ8, lists=64, effort=1))
    found = RescoredIndex(lists, VECTORS.__getitem__).search(QUERIES, 1000)
    assert found.rows.shape == (20, 1000)
    assert ((found.rows == NO_ROW) == (found.scores == -np.inf)).all()
    for query in range(20):
        assert len(set(found.of(query).tolist())) == len(found.of(query))


def test_an_empty_index_finds_nothing() -> None:
    empty = AnnIndex.build(np.empty((0, 16), np.float32))
    assert RescoredIndex(empty, VECTORS.__getitem__).search(QUERIES, 5).rows.shape == (20, 0)


def test_the_margin_is_a_quarter() -> None:
    assert [with_margin(k) for k in (1, 4, 500)] == [2, 5, 625]
