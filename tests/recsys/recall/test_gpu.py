"""The GPU path on CPU tensors: same code, same interface. What needs a device is marked `gpu`."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recsys.contracts.errors import InvalidConfig
from recsys.models.topk import ChunkedTopK
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.gpu import BatchingIndex, Floats, TopKIndex
from recsys.recall.vector_index import Found, VectorIndex
from tests.recsys.recall.test_ann import QUERIES, VECTORS, exact


@pytest.mark.parametrize("chunk", [1, 7, 1000, 5000])
def test_chunks_find_what_one_product_finds(chunk: int) -> None:
    vectors = VECTORS[:200] if chunk == 1 else VECTORS
    top_k = ChunkedTopK(vectors, "cpu", chunk=chunk)
    index: VectorIndex = TopKIndex(top_k, len(vectors), 16)
    found = index.search(QUERIES, 50)
    np.testing.assert_array_equal(found.rows, exact(vectors, QUERIES, 50))
    np.testing.assert_allclose(found.scores[:, 0], (QUERIES @ vectors.T).max(axis=1), rtol=1e-5)


def test_rows_and_the_limits_of_k() -> None:
    rows = np.arange(10, 17, dtype=np.int32)
    index = TopKIndex(ChunkedTopK(VECTORS[:7], "cpu", chunk=3), 7, 16, rows)
    found = index.search(QUERIES[:2], 50)
    assert found.rows.shape == (2, 7)
    assert sorted(found.of(0).tolist()) == rows.tolist()
    with pytest.raises(ValueError, match="k: "):
        index.search(QUERIES, 0)
    empty = TopKIndex(ChunkedTopK(VECTORS[:0], "cpu"), 0, 16)
    assert empty.search(QUERIES, 3).rows.shape == (20, 0)


class _Slow:
    """Answers one batch at a time, when it is allowed to; remembers their sizes."""

    dimension = 16

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self._index = AnnIndex.build(VECTORS, IndexConfig())

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Floats, k: int) -> Found:
        assert self.go.wait(60)
        self.sizes.append(len(queries))
        if np.isnan(queries).any():
            raise RuntimeError("device lost")
        return self._index.search(queries, k)


def _wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("not within a minute")


def test_requests_that_wait_for_the_device_are_searched_together() -> None:
    slow = _Slow()
    index = BatchingIndex(slow, max_batch=8)
    wanted = exact(VECTORS, QUERIES, 30)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(index.search, QUERIES[i : i + 1], 11 + i) for i in range(20)]
        _wait_until(lambda: index._queue.qsize() == 19 or index._queue.qsize() + len(slow.sizes) >= 12)
        slow.go.set()
        for i, future in enumerate(futures):
            assert future.result(60).rows[0].tolist() == wanted[i, : 11 + i].tolist()
    index.close()
    assert sum(slow.sizes) == 20
    assert len(slow.sizes) < 20
    assert max(slow.sizes) <= 8


def test_an_error_reaches_the_callers_of_its_batch_and_the_next_are_served() -> None:
    slow = _Slow()
    slow.go.set()
    index = BatchingIndex(slow)
    with pytest.raises(RuntimeError, match="device lost"):
        index.search(np.full((1, 16), np.nan, np.float32), 3)
    assert index.search(QUERIES, 3).rows.shape == (20, 3)
    with pytest.raises(ValueError, match="shape"):
        index.search(QUERIES[:, :3], 3)
    index.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_choice_of_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidConfig, match="no CUDA device"):
        ChunkedTopK(VECTORS)
    with pytest.raises(InvalidConfig, match="finds no GPU 0"):
        AnnIndex.build(VECTORS).to_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_device_finds_what_the_processor_finds() -> None:
    found = TopKIndex(ChunkedTopK(VECTORS, "cuda", half=False), len(VECTORS), 16).search(QUERIES, 50)
    wanted = exact(VECTORS, QUERIES, 50)
    shared = [len(np.intersect1d(found.rows[i], wanted[i])) for i in range(len(QUERIES))]
    assert np.mean(shared) >= 49.5
