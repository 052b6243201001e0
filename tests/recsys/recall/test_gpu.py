"""The GPU path on CPU tensors: same code, same interface. Tests that need a device are marked `gpu`."""

import numpy as np
import pytest
import torch

from recsys.contracts.errors import InvalidConfig
from recsys.models.topk import ChunkedTopK
from recsys.recall.ann import AnnIndex
from recsys.recall.gpu import TopKIndex
from recsys.recall.vector_index import VectorIndex
from tests.recsys.recall.test_ann import QUERIES, VECTORS, exact


@pytest.mark.parametrize("chunk", [1, 7, 1000, 5000])
def test_chunked_search_agrees_with_one_matrix_product(chunk: int) -> None:
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_index_without_a_device_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidConfig, match="no CUDA device"):
        ChunkedTopK(VECTORS)
    with pytest.raises(InvalidConfig, match="finds no GPU 0"):
        AnnIndex.build(VECTORS).to_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_agrees_with_the_cpu() -> None:
    found = TopKIndex(ChunkedTopK(VECTORS, "cuda", half=False), len(VECTORS), 16).search(QUERIES, 50)
    wanted = exact(VECTORS, QUERIES, 50)
    shared = [len(np.intersect1d(found.rows[i], wanted[i])) for i in range(len(QUERIES))]
    assert np.mean(shared) >= 49.5
