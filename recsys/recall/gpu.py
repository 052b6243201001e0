"""Exact search on a GPU behind the interface of `VectorIndex`.

The caller passes in `recsys.models.topk.ChunkedTopK`: this file must not load torch, since serving on CPUs does not.
With a GPU build of FAISS, `AnnIndex.to_gpu` is the alternative.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows
from recsys.recall.vector_index import Found, check_queries, nothing

Floats = NDArray[np.float32]
# (B, d) queries, k → scores (B, k), positions (B, k)
TopK = Callable[[Floats, int], tuple[Floats, NDArray[np.int64]]]


class TopKIndex:
    """`VectorIndex` over a function that finds the k greatest inner products."""

    def __init__(self, top_k: TopK, n: int, dimension: int, rows: Rows | None = None) -> None:
        """
        Args:
            rows: (n,) int32 row of each vector; None: 0 … n - 1.
        """
        self.dimension = dimension
        self._top_k = top_k
        self._n = n
        self._rows = rows

    def __len__(self) -> int:
        return self._n

    def search(self, queries: Floats, k: int) -> Found:
        """See `VectorIndex.search`."""
        queries = check_queries(queries, k, self.dimension)
        k = min(k, self._n)
        if not k or not len(queries):
            return nothing(len(queries))
        scores, places = self._top_k(queries, k)
        rows = places if self._rows is None else self._rows[places]
        return Found(scores, rows.astype(np.int32))
