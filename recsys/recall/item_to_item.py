"""Channels that start from the user's recent items: what co-occurs with them, and what lies near them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Query, Rows
from recsys.recall.grouping import first_seen
from recsys.recall.vector_index import NO_ROW, VectorIndex

_NEWEST_FIRST = np.float32(0.85)  # what an older item weighs beside the one after it


class ItemToItemSource:
    """`recsys.pipeline.stages.Source`: neighbours of the recent items, their scores summed, newer items more."""

    def __init__(
        self,
        neighbours: NDArray[np.int32],
        scores: NDArray[np.float32],
        limit: int = 150,
        recent: int = 10,
        name: str = "item_to_item",
        optional: bool = True,
    ) -> None:
        """
        Args:
            neighbours: (n_items, m) int32 rows, `NO_ROW` for none.
            scores: (n_items, m) float32, not negative.
            recent: how many of the user's items to start from.
        """
        self.name = name
        self.optional = optional
        self._neighbours = neighbours
        self._scores = scores
        self._limit = limit
        self._recent = recent

    def recall(self, query: Query) -> Rows:
        start = query.recent_rows[: self._recent]
        start = start[start < len(self._neighbours)]  # items newer than the bundle have no neighbours yet
        weights = _NEWEST_FIRST ** np.arange(len(start), dtype=np.float32)
        return _best(self._neighbours[start], self._scores[start] * weights[:, None], query, self._limit)


class VectorNeighboursSource:
    """`recsys.pipeline.stages.Source`: items whose vectors are near those of the newest items.

    Knows the items of the last second too: their vectors come from their attributes.
    """

    def __init__(
        self,
        vectors_of: Callable[[Rows], NDArray[np.float32]],
        index: VectorIndex,
        limit: int = 100,
        recent: int = 3,
        name: str = "similar",
        optional: bool = True,
    ) -> None:
        """
        Args:
            vectors_of: (n,) rows → (n, d) float32; zeros for an item without a vector.
        """
        self.name = name
        self.optional = optional
        self._vectors_of = vectors_of
        self._index = index
        self._limit = limit
        self._recent = recent

    def recall(self, query: Query) -> Rows:
        start = query.recent_rows[: self._recent]
        if not len(start):
            return np.empty(0, np.int32)
        found = self._index.search(self._vectors_of(start), self._limit + min(query.hidden, self._limit))
        ranks = np.arange(found.rows.shape[1], dtype=np.float32)
        weights = _NEWEST_FIRST ** np.arange(len(start), dtype=np.float32)
        return _best(found.rows, weights[:, None] / (60 + ranks), query, self._limit)


def _best(rows: Rows, scores: NDArray[np.float32], query: Query, limit: int) -> Rows:
    """Sum the scores of each row over all lines; the best `limit` that may be shown."""
    there = rows != NO_ROW
    found, places = first_seen(rows[there])
    total = np.bincount(places, weights=scores[there], minlength=len(found))
    shown = query.may_show(found)
    found, total = found[shown], total[shown]
    return found[np.argsort(-total, kind="stable")[:limit]]  # of equal sums first what was met first
