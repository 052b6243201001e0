"""One suite for everything that calls itself a `VectorIndex`: FAISS, live, torch, rescored, Milvus."""

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recsys.models.topk import ChunkedTopK
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.gpu import TopKIndex
from recsys.recall.index_kind import Kind
from recsys.recall.live_index import LiveIndex
from recsys.recall.rescored import RescoredIndex
from recsys.recall.snapshots import Base
from recsys.recall.vector_index import NO_ROW, MutableIndex, VectorIndex
from tests.recsys.recall.test_ann import QUERIES, VECTORS, Floats, exact

if TYPE_CHECKING:
    from recsys.recall.milvus import MilvusIndex

HAS_MILVUS = importlib.util.find_spec("pymilvus") and importlib.util.find_spec("milvus_lite")
needs_milvus = pytest.mark.skipif(not HAS_MILVUS, reason="needs the `milvus` extra")

N = 600
ITEMS = VECTORS[:N]


def live_with_a_delta(vectors: Floats) -> LiveIndex:
    """A part in the main index, a part in the delta, some rows replaced, some removed again."""
    half = len(vectors) // 2
    index = LiveIndex.build(np.vstack([vectors[:half], VECTORS[-5:]]), rebuild_at=None)
    index.remove(range(half, half + 5))
    index.upsert(range(half, len(vectors)), vectors[half:])
    index.upsert(range(half // 2), vectors[: half // 2])
    return index


def filled_milvus(uri: str, vectors: Floats, collection: str) -> "MilvusIndex":
    """A collection with row i = vectors[i]."""
    from recsys.recall.milvus import MilvusIndex

    index = MilvusIndex(uri, vectors.shape[1], collection, index_type="FLAT")
    index.upsert(np.arange(len(vectors), dtype=np.int32), vectors)
    return index


class Makers:
    """Each gives an exact index of the vectors; row i is vector i."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.closers: list[Callable[[], Any]] = []

    def flat(self, vectors: Floats) -> VectorIndex:
        return AnnIndex.build(vectors, IndexConfig(Kind.FLAT))

    def every_list(self, vectors: Floats) -> VectorIndex:
        return AnnIndex.build(vectors, IndexConfig(Kind.IVF_FLAT, lists=8, effort=8))

    def sharded(self, vectors: Floats) -> VectorIndex:
        return AnnIndex.build(vectors, IndexConfig(Kind.FLAT, shards=3))

    def rescored(self, vectors: Floats) -> VectorIndex:
        return RescoredIndex(AnnIndex.build(vectors, IndexConfig(Kind.SQ8)), VECTORS.__getitem__)

    def torch(self, vectors: Floats) -> VectorIndex:
        return TopKIndex(ChunkedTopK(vectors, "cpu", chunk=100), len(vectors), vectors.shape[1])

    def torch_with_rows(self, vectors: Floats) -> VectorIndex:
        """The vectors are stored in another order than their rows."""
        rows = np.arange(len(vectors), dtype=np.int32)[::-1]
        return TopKIndex(ChunkedTopK(vectors[::-1], "cpu", chunk=100), len(vectors), vectors.shape[1], rows)

    def live(self, vectors: Floats) -> MutableIndex:
        return live_with_a_delta(vectors)

    def live_sharded(self, vectors: Floats) -> MutableIndex:
        """Rebuilt once: still in parts."""
        index = LiveIndex.build(vectors, config=IndexConfig(Kind.FLAT, shards=2))
        index.rebuild()
        return index

    def live_compressed(self, vectors: Floats) -> MutableIndex:
        return LiveIndex.build(vectors, config=IndexConfig(Kind.SQ8))

    def milvus(self, vectors: Floats) -> "MilvusIndex":
        index = filled_milvus(str(self.folder / "milvus.db"), vectors, "items")
        self.closers.append(index.close)
        return index

    def live_on_milvus(self, vectors: Floats) -> MutableIndex:
        """As `RECSYS_MILVUS_URI` makes it: the collection is the base, changes stay in this process."""
        base = Base(self.milvus(vectors), np.arange(len(vectors), dtype=np.int32), vectors)
        return LiveIndex(base, rebuild_at=None)


MILVUS = [pytest.param(name, marks=needs_milvus) for name in ("milvus", "live_on_milvus")]
ALL = [
    "flat",
    "every_list",
    "sharded",
    "rescored",
    "torch",
    "torch_with_rows",
    "live",
    "live_sharded",
    "live_compressed",
    *MILVUS,
]
MUTABLE = ["live", "live_sharded", "live_compressed", *MILVUS]


@pytest.fixture
def makers(tmp_path: Path) -> Iterator[Makers]:
    found = Makers(tmp_path)
    yield found
    for close in found.closers:
        close()


def make(makers: Makers, kind: str, vectors: Floats = ITEMS) -> Any:
    return getattr(makers, kind)(vectors)


@pytest.mark.parametrize("kind", ALL)
def test_it_finds_what_exact_search_finds(makers: Makers, kind: str) -> None:
    index: VectorIndex = make(makers, kind)
    assert (len(index), index.dimension) == (N, 16)
    found = index.search(QUERIES, 40)
    wanted = exact(ITEMS, QUERIES, 40)
    np.testing.assert_array_equal(found.rows, wanted)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(QUERIES @ ITEMS.T, wanted, axis=1), rtol=1e-3, atol=1e-4
    )
    assert found.rows.dtype == np.int32
    assert found.scores.dtype == np.float32


@pytest.mark.parametrize("kind", ALL)
def test_more_than_there_is(makers: Makers, kind: str) -> None:
    found = make(makers, kind, VECTORS[:7]).search(QUERIES[:3], 100)
    assert found.rows.shape == found.scores.shape == (3, 7)
    for query in range(3):
        assert sorted(found.of(query).tolist()) == list(range(7))


@pytest.mark.parametrize("kind", ALL)
def test_an_empty_index(makers: Makers, kind: str) -> None:
    index = make(makers, kind, VECTORS[:0])
    assert len(index) == 0
    assert (index.search(QUERIES[:3], 5).rows == NO_ROW).all()
    assert len(index.search(QUERIES[:3], 5).of(2)) == 0


@pytest.mark.parametrize("kind", ALL)
def test_wrong_questions(makers: Makers, kind: str) -> None:
    index = make(makers, kind, VECTORS[:20])
    for queries, k in ((QUERIES[:, :5], 3), (QUERIES[0], 3), (QUERIES, 0)):
        with pytest.raises(ValueError, match=r"queries|k: "):
            index.search(queries, k)


@pytest.mark.parametrize("kind", ALL)
def test_many_searches_at_once(makers: Makers, kind: str) -> None:
    index = make(makers, kind)
    wanted = exact(ITEMS, QUERIES, 10)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: index.search(QUERIES[i % 20 : i % 20 + 1], 10).of(0), range(80))
        for i, rows in enumerate(found):
            assert rows.tolist() == wanted[i % 20].tolist()


@pytest.mark.parametrize("kind", MUTABLE)
def test_changes_are_seen_by_the_next_search(makers: Makers, kind: str) -> None:
    index: MutableIndex = make(makers, kind)
    query = QUERIES[:1]
    best = int(index.search(query, 1).of(0)[0])
    index.remove(np.array([best, 12_345], np.int32))
    assert best not in index.search(query, N).of(0)
    assert len(index) == N - 1
    index.upsert(np.array([best, 9_000, 9_000], np.int32), np.vstack([query * 100, query, query * 200]))
    assert index.search(query, 2).of(0).tolist() == [9_000, best]
    assert len(index) == N + 1


@pytest.mark.parametrize("kind", MUTABLE)
def test_wrong_changes_change_nothing(makers: Makers, kind: str) -> None:
    index: MutableIndex = make(makers, kind, VECTORS[:20])
    with pytest.raises(ValueError, match="NaN"):
        index.upsert(np.array([50, 51], np.int32), np.array([[1.0] * 16, [np.nan] * 16], np.float32))
    with pytest.raises(ValueError, match="is needed"):
        index.upsert(np.array([50], np.int32), VECTORS[:2])
    assert len(index) == 20


@needs_milvus
def test_a_milvus_collection_lives_on_and_refuses_another_dimension(tmp_path: Path) -> None:
    from recsys.contracts.errors import InvalidConfig, Unavailable
    from recsys.recall.milvus import MilvusIndex

    uri = str(tmp_path / "milvus.db")
    filled_milvus(uri, ITEMS[:50], "v1").close()
    again = MilvusIndex(uri, 16, "v1")
    assert len(again) == 50
    with pytest.raises(InvalidConfig, match="has 16 dimensions, not 8"):
        MilvusIndex(uri, 8, "v1")
    again.drop()
    with pytest.raises(Unavailable):
        again.search(QUERIES, 3)
    again.close()
