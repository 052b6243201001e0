"""Search among eligible items alone: as an exact scan of them finds, however few they are."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.filters import parse_filter
from recsys.contracts.request import Query
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.filtered import FilteredSource
from recsys.recall.index_kind import Kind
from recsys.recall.live_index import LiveIndex
from recsys.recall.snapshots import Base
from recsys.recall.vector_index import Found

N, D, K = 30_000, 16, 20
Floats = NDArray[np.float32]


@cache
def world() -> tuple[Floats, NDArray[np.int64], Floats]:
    """Vectors in clusters, the cluster of each, and queries near to some."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, D))
    cluster = rng.integers(0, 60, N)
    vectors = centres[cluster] + 0.6 * rng.normal(size=(N, D))
    queries = centres[:10] + 0.6 * rng.normal(size=(10, D))
    return unit(vectors), cluster, unit(queries)


def unit(rows: NDArray[np.float64]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@cache
def approximate() -> AnnIndex:
    """What a catalogue of this size gets by default."""
    return AnnIndex.build(world()[0])


def recall(found: Found, mask: NDArray[np.bool_], k: int = K) -> float:
    """Share of the k nearest eligible items that were found. All found are eligible."""
    vectors, _, queries = world()
    best = np.argsort(-np.where(mask, queries @ vectors.T, -9), axis=1)[:, : min(k, mask.sum())]
    for query in range(len(queries)):
        assert mask[found.of(query)].all()
        assert len(set(found.of(query).tolist())) == min(k, mask.sum()), "as many as there are"
    shares = [
        len(np.intersect1d(found.of(query), best[query])) / best.shape[1] for query in range(len(queries))
    ]
    return float(np.mean(shares))


MASKS: dict[str, Callable[[], NDArray[np.bool_]]] = {
    "one": lambda: np.arange(N) == 7,
    "a thousandth": lambda: np.arange(N) % 1_000 == 3,
    "a tenth": lambda: np.arange(N) % 10 == 3,
    "most": lambda: np.arange(N) % 10 != 3,
    "far clusters": lambda: world()[1] >= 54,
}


@pytest.mark.parametrize("which", MASKS)
def test_the_default_index_finds_k_eligible_items_nearly_as_an_exact_scan_does(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = MASKS[which]()
    base = Base(approximate(), np.arange(N, dtype=np.int32), world()[0])
    found = LiveIndex(base).search(world()[2], K, Eligible(mask))
    assert recall(found, mask) >= 0.99
    monkeypatch.setattr("recsys.recall.index_view.FEW", 0)  # by the lists, also where few are left
    assert recall(LiveIndex(base).search(world()[2], K, Eligible(mask)), mask) >= 0.98


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_index_selects(kind: Kind) -> None:
    vectors, _, queries = world()
    index = AnnIndex.build(vectors[:3_000], IndexConfig(kind))
    mask = np.arange(3_000) % 7 == 2
    found = index.search(queries, K, Eligible(mask))
    assert all(len(found.of(query)) == K and mask[found.of(query)].all() for query in range(len(queries)))
    assert len(index.search(queries, K, Eligible(np.arange(3_000) == 5)).of(0)) == 1
    assert len(index.search(queries, K, Eligible(np.zeros(3_000, bool))).of(0)) == 0


class Unselective:
    """A base such as Milvus: it finds ineligible items, too."""

    compressed = False
    selects = False

    def __init__(self) -> None:
        self._index = AnnIndex.build(world()[0], IndexConfig())
        self.dimension = D
        self.asked: list[int] = []

    def __len__(self) -> int:
        return N

    def search(self, queries: Floats, k: int, eligible: Eligible | None = None) -> Found:
        self.asked.append(k)
        return self._index.search(queries, k)


@pytest.mark.parametrize("which", MASKS)
def test_an_index_that_cannot_select_is_asked_for_more(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.recall.index_view.MANY", 10_000)
    mask, index = MASKS[which](), Unselective()
    live = LiveIndex(Base(index, np.arange(N, dtype=np.int32), world()[0]))
    assert recall(live.search(world()[2], K, Eligible(mask)), mask) == 1.0
    assert bool(index.asked) == (which == "most"), "the others are few enough for a scan"


def test_an_index_with_a_limit_is_not_asked_again_for_what_it_cannot_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Milvus returns 16,384 at most, however many were asked for."""
    monkeypatch.setattr("recsys.recall.index_view.MANY", 0)
    index = Unselective()
    search = index.search
    monkeypatch.setattr(
        index, "search", lambda queries, k, eligible=None: search(queries, min(k, 10), eligible)
    )
    live = LiveIndex(Base(index, np.arange(N, dtype=np.int32), world()[0]))
    live.search(world()[2], K, Eligible(MASKS["most"]()))
    assert len(index.asked) == 1


def test_changes_of_a_live_index_count_among_eligible_items() -> None:
    vectors, _, queries = world()
    live = LiveIndex.build(vectors[:2_000], config=IndexConfig(), rebuild_at=None)
    query = queries[:1]
    nearest = live.search(query, 3).of(0)
    live.remove(nearest[:1])
    live.upsert(np.array([2_500, 2_501], np.int32), np.concatenate([query * 9, query * 8]))
    everything = np.ones(3_000, bool)
    without = everything.copy()
    without[2_500] = False
    for rebuilt in (False, True):
        if rebuilt:
            live.rebuild()
        assert live.search(query, 2, Eligible(everything)).of(0).tolist() == [2_500, 2_501]
        assert live.search(query, 2, Eligible(without)).of(0).tolist() == [2_501, nearest[1]]
        few = np.isin(np.arange(3_000), [*nearest, 2_501])
        assert live.search(query, 9, Eligible(few)).of(0).tolist() == [2_501, *nearest[1:]]


def test_rows_newer_than_a_mask_are_not_eligible() -> None:
    eligible = Eligible(np.array([True, False]))
    assert eligible.of(np.array([0, 1, 2, 99], np.int32)).tolist() == [True, False, False, False]
    assert not Eligible(np.zeros(0, bool)).of(np.array([0], np.int32)).any()
    query = Query("r", "u", 3, 0, eligible=eligible)
    assert query.may_show(np.array([0, 1, 2], np.int32)).tolist() == [True, False, False]


def test_what_a_filter_leaves_is_recalled_the_latest_rows_first() -> None:
    eligible = Eligible(np.array([True, True, False, True, True]), narrowed=True)
    query = Query("r", "u", 3, 0, filter=parse_filter("x == 1"), eligible=eligible)
    hides_one = replace(query, seen_rows=np.array([4], np.int32))
    assert FilteredSource(limit=3).recall(query).tolist() == [4, 3, 1]
    assert FilteredSource(limit=3).recall(hides_one).tolist() == [3, 1, 0]
    assert FilteredSource().recall(Query("r", "u", 3, 0)).tolist() == []
    by_region = replace(query, filter=None)
    assert FilteredSource(limit=4).recall(by_region).tolist() == [4, 3, 1, 0]
    assert FilteredSource(limit=3).recall(by_region).tolist() == [], "a region that leaves many needs no help"
    by_time = Query("r", "u", 3, 0, eligible=Eligible(np.array([True])))
    assert FilteredSource().recall(by_time).tolist() == [], "the other channels find what is out"
