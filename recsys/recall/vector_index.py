"""The interface of an index of item vectors: FAISS in process, a GPU, or a Milvus server."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.request import Rows

NO_ROW = -1  # pads the results of an index that found fewer than k


class Found(NamedTuple):
    """The nearest items of B queries, best first.

    scores: (B, m) float32 inner products, -inf where there is no result.
    rows: (B, m) int32, `NO_ROW` where there is no result; always at the end of a line.
    m is k, or the number of items if that is smaller.
    """

    scores: NDArray[np.float32]
    rows: Rows

    def of(self, query: int) -> Rows:
        """The rows found for one query, without padding."""
        found: Rows = self.rows[query][self.rows[query] != NO_ROW]
        return found


class VectorIndex(Protocol):
    """Searched by inner product. Thread-safe."""

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int:
        """Number of items that can be found."""

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """
        Args:
            queries: (B, d) float32.
            k: results per query, at least 1.

        Raises:
            ValueError: the queries are not (B, d), or k < 1.
        """


class SelectiveIndex(VectorIndex, Protocol):
    """An index that finds the nearest of some items only."""

    def search(self, queries: NDArray[np.float32], k: int, eligible: Eligible | None = None) -> Found:
        """See `VectorIndex.search`. `eligible`: the rows that may be found; None: all. m is k, or the number of those
        that the index holds if that is smaller."""


class MutableIndex(SelectiveIndex, Protocol):
    """An index that changes. A search that begins after a change has returned sees it."""

    def upsert(self, rows: Rows, vectors: NDArray[np.float32]) -> None:
        """Add rows or replace their vectors, (n, d) float32. The last vector of a repeated row counts.

        Raises:
            ValueError: the vectors are not (n, d), or a value is not finite. Nothing is changed then.
        """

    def remove(self, rows: Rows) -> None:
        """Remove rows; unknown ones are ignored."""


def check_vectors(
    rows: Rows, vectors: NDArray[np.float32], dimension: int
) -> tuple[Rows, NDArray[np.float32]]:
    """Rows and vectors of an upsert, each row once with its last vector; raises `ValueError`."""
    if vectors.shape != (len(rows), dimension):
        raise ValueError(f"vectors: ({len(rows)}, {dimension}) is needed, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: NaN or infinity among them")
    _, last = np.unique(rows[::-1], return_index=True)
    last = np.sort(len(rows) - 1 - last)
    return rows[last], np.asarray(vectors, np.float32)[last]


def check_queries(queries: NDArray[np.float32], k: int, dimension: int) -> NDArray[np.float32]:
    """The queries as a contiguous (B, d) float32 array; raises `ValueError`."""
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ValueError(f"queries: (B, {dimension}) float32 is needed, got shape {queries.shape}")
    if k < 1:
        raise ValueError(f"k: at least 1 is needed, got {k}")
    return np.ascontiguousarray(queries, np.float32)


def nothing(queries: int, k: int = 0) -> Found:
    """A result without items."""
    return Found(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NO_ROW, np.int32))
