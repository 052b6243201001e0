"""The item-to-item channel: what co-occurs with the user's recent items."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Query, Rows
from recsys.recall.grouping import first_seen
from recsys.recall.vector_index import NO_ROW

_RECENCY = np.float32(0.85)  # weight of a recent item relative to the next newer one


@dataclass(frozen=True, eq=False)
class ItemToItemSource:
    """`recsys.pipeline.stages.Source`: neighbours of the recent items by summed scores; newer items weigh more.

    neighbours: (n_items, m) int32 rows, `NO_ROW` for none.
    scores: (n_items, m) float32, not negative.
    recent: number of the user's newest items to start from.
    """

    neighbours: NDArray[np.int32]
    scores: NDArray[np.float32]
    limit: int = 150
    recent: int = 10
    name: str = "item_to_item"
    optional: bool = True

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """(recent,) float32: of the newest item, the one before it, …"""
        return _RECENCY ** np.arange(self.recent, dtype=np.float32)

    def recall(self, query: Query) -> Rows:
        start = query.recent_rows[: self.recent]
        start = start[start < len(self.neighbours)]  # items newer than the bundle have no neighbours yet
        rows = self.neighbours[start]
        scores = self.scores[start] * self.weights[: len(start), None]
        found, places = first_seen(rows[rows != NO_ROW])
        total = np.bincount(places, weights=scores[rows != NO_ROW], minlength=len(found))
        allowed = query.may_show(found)
        found, total = found[allowed], total[allowed]
        return found[
            np.argsort(-total, kind="stable")[: self.limit]
        ]  # ties: the newer item's neighbour first
