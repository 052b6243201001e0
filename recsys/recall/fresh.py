"""The newest items of the catalogue: how an item that nobody knows gets its first impressions."""

import threading

import numpy as np

from recsys.contracts.request import Query, Rows
from recsys.items.catalogue import Catalogue


class FreshSource:
    """`recsys.pipeline.stages.Source`: the newest items, newest first.

    The order is the same for everybody, so it is kept, and computed again when the catalogue has changed, at most
    every `refresh_ms`. One request does that; the others use the old order meanwhile.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limit: int = 50,
        max_age_ms: int | None = None,
        refresh_ms: int = 200,
        name: str = "fresh",
        optional: bool = True,
    ) -> None:
        """
        Args:
            max_age_ms: older items are not fresh; None: the newest are, however old.
        """
        self.name = name
        self.optional = optional
        self._catalogue = catalogue
        self._limit = limit
        self._max_age_ms = max_age_ms
        self._refresh_ms = refresh_ms
        self._newest = _newest(catalogue, 10 * limit)
        self._version = catalogue.version
        self._made_ms = 0
        self._lock = threading.Lock()

    def recall(self, query: Query) -> Rows:
        newest = self._current(query.now_ms)
        if self._max_age_ms is not None:
            newest = newest[self._catalogue.created_ms[newest] >= query.now_ms - self._max_age_ms]
        return newest[query.may_show(newest)][: self._limit]

    def _current(self, now_ms: int) -> Rows:
        version = self._catalogue.version
        is_due = version != self._version and abs(now_ms - self._made_ms) >= self._refresh_ms
        if is_due and self._lock.acquire(blocking=False):
            try:
                self._newest = _newest(self._catalogue, 10 * self._limit)
                self._version, self._made_ms = version, now_ms
            finally:
                self._lock.release()
        return self._newest


def _newest(catalogue: Catalogue, n: int) -> Rows:
    """The n newest living items with a known time of creation; of equal times the later row first."""
    created = catalogue.created_ms
    times = np.where(catalogue.alive[: len(created)], created, 0)
    rows = np.flatnonzero(times > 0)
    if len(rows) > n:
        rows = rows[np.argpartition(-times[rows], n - 1)[:n]]
    return rows[np.lexsort((-rows, -times[rows]))].astype(np.int32)
