"""Search on a GPU behind the same interface: FAISS's GPU build where there is one, else a chunked matrix product.

This file imports neither torch nor FAISS: whoever has chosen the GPU hands in `recsys.models.topk.ChunkedTopK`
(serving on CPUs must not load torch), or an `AnnIndex` that `to_gpu` has moved. Both are fast on batches only, so
`BatchingIndex` makes batches of the requests that wait for the device.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows
from recsys.recall.vector_index import Found, VectorIndex, check_queries, nothing

Floats = NDArray[np.float32]
# (B, d) queries, k → scores (B, k), positions (B, k)
TopK = Callable[[Floats, int], tuple[Floats, NDArray[np.int64]]]


class TopKIndex:
    """`VectorIndex` over a function that finds the k greatest inner products. Exact."""

    def __init__(self, top_k: TopK, n: int, dimension: int, rows: Rows | None = None) -> None:
        """
        Args:
            rows: (n,) int32 row of each vector; None: 0 … n - 1.
        """
        self._top_k = top_k
        self._n = n
        self._dimension = dimension
        self._rows = rows

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        return self._n

    def search(self, queries: Floats, k: int) -> Found:
        """See `VectorIndex.search`."""
        queries = check_queries(queries, k, self._dimension)
        k = min(k, self._n)
        if not k or not len(queries):
            return nothing(len(queries))
        scores, places = self._top_k(queries, k)
        rows = places if self._rows is None else self._rows[places]
        return Found(scores, rows.astype(np.int32))


class _Waiting(NamedTuple):
    queries: Floats
    k: int
    found: "Future[Found]"


class BatchingIndex:
    """`VectorIndex` that searches for many callers at once; one thread owns the device.

    A batch is whatever has come while the device was busy, so an idle device answers at once and a busy one works
    in large batches: no waiting time to tune.
    """

    def __init__(self, index: VectorIndex, max_batch: int = 256) -> None:
        self._index = index
        self._max_batch = max_batch
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="gpu-search", daemon=True)
        self._thread.start()

    @property
    def dimension(self) -> int:
        return self._index.dimension

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Floats, k: int) -> Found:
        """See `VectorIndex.search`. Waits for its turn."""
        queries = check_queries(queries, k, self.dimension)
        waiting = _Waiting(queries, k, Future())
        self._queue.put(waiting)
        return waiting.found.result()

    def close(self) -> None:
        """Answer what waits and end the thread. `search` must not be called after."""
        self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, is_last = self._gather(first)
            try:
                self._answer(batch)
            except Exception as error:  # each caller gets it; the thread lives on
                for waiting in batch:
                    waiting.found.set_exception(error)
            if is_last:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What waits now, up to a full batch; and whether the index is being closed."""
        batch, size = [first], len(first.queries)
        while size < self._max_batch:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
            size += len(waiting.queries)
        return batch, False

    def _answer(self, batch: list[_Waiting]) -> None:
        found = self._index.search(
            np.concatenate([w.queries for w in batch]), max(waiting.k for waiting in batch)
        )
        start = 0
        for waiting in batch:
            part = slice(start, start + len(waiting.queries))
            waiting.found.set_result(Found(found.scores[part, : waiting.k], found.rows[part, : waiting.k]))
            start = part.stop
