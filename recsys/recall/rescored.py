"""Exact scores for the results of a compressed index.

8-bit codes misorder the last of 500 neighbours slightly. Asking for a few more and rescoring all of them by the float
vectors corrects that in a tenth of a millisecond. The vectors need no memory of their own: they are a memory map, or
those that reranking holds anyway.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows
from recsys.recall.vector_index import NO_ROW, Found, VectorIndex

Floats = NDArray[np.float32]


def with_margin(k: int) -> int:
    """Number of results to ask of a compressed index so that the best k are among them: a quarter more."""
    return k + (k + 3) // 4


def rescore(found: Found, queries: Floats, vectors_of: Callable[[Rows], Floats], k: int) -> Found:
    """The best k results by exact inner products.

    Args:
        vectors_of: (n,) rows → (n, d) float32.
    """
    missing = found.rows == NO_ROW
    if missing.all():
        return Found(found.scores[:, :k], found.rows[:, :k])
    rows = np.where(missing, found.rows.max(), found.rows) if missing.any() else found.rows
    vectors = vectors_of(rows.ravel()).reshape(*rows.shape, -1)
    scores = np.matmul(vectors, queries[:, :, None])[..., 0]
    scores[missing] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    flat = best + np.arange(len(rows))[:, None] * rows.shape[1]
    return Found(scores.take(flat), found.rows.take(flat))


class RescoredIndex:
    """`VectorIndex` with exact scores."""

    def __init__(self, index: VectorIndex, vectors_of: Callable[[Rows], Floats]) -> None:
        self._index = index
        self._vectors_of = vectors_of

    @property
    def dimension(self) -> int:
        return self._index.dimension

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Floats, k: int) -> Found:
        """See `VectorIndex.search`."""
        found = self._index.search(queries, with_margin(k))
        return rescore(found, queries, self._vectors_of, k)
