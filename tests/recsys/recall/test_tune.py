from dataclasses import replace

import numpy as np
import pytest

from infra.evaluation.benchmarks.vectors import learnt_like, random_vectors
from recsys.recall.ann import IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.tune import Measured, candidates, measure, pick

M = Measured(IndexConfig(Kind.FLAT), False, build_s=0, bytes_per_vector=256, ms=10, exact_ms=10, recall=1.0)


def test_the_fastest_index_within_the_limits_is_picked() -> None:
    small = replace(M, ms=2.0, recall=0.98, bytes_per_vector=72)
    fast = replace(M, ms=1.0, recall=0.95, bytes_per_vector=72)
    assert pick([M, small, fast], 0.97) is small
    assert pick([M, small, fast], 0.9) is fast
    assert pick([M, small, fast], 0.99) is M
    assert pick([M, small, fast], 0.99, bytes_per_vector=80) is None
    assert pick([], 0.5) is None


def test_speed_is_relative_to_exact_search_on_the_same_machine() -> None:
    assert replace(M, ms=2.5).speedup == 4


def test_every_kind_is_measured_against_exact_search() -> None:
    data = learnt_like(3000, 16, 10, seed=0)
    found = list(measure(data.items, data.queries, candidates(3000), k=50))
    assert {m.config.kind for m in found} == set(Kind)
    best = {kind: max(m.recall for m in found if m.config.kind is kind) for kind in Kind}
    assert best[Kind.FLAT] == best[Kind.IVF_FLAT] == 1.0
    assert min(best.values()) > 0.9
    size = {m.config.kind: m.bytes_per_vector for m in found}
    assert size[Kind.FLAT] == pytest.approx(64, abs=1)
    assert size[Kind.IVF_SQ8] < size[Kind.IVF_FLAT]
    rescored = {m.config.kind for m in found if m.rescored}
    assert rescored == {Kind.SQ8, Kind.IVF_SQ8, Kind.IVF_PQ, Kind.IVF_RABITQ}


@pytest.mark.parametrize("make", [learnt_like, random_vectors])
def test_measured_vectors_have_length_one_and_follow_their_seed(make: object) -> None:
    assert callable(make)
    first, again, other = make(500, 8, 20, 1), make(500, 8, 20, 1), make(500, 8, 20, 2)
    for table, n in ((first.items, 500), (first.queries, 20)):
        assert table.shape == (n, 8)
        assert table.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(first.items, again.items)
    assert not np.array_equal(first.items, other.items)
