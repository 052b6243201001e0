"""The newest items of the catalogue: how an unknown item gets its first impressions."""

import threading
from dataclasses import dataclass

import numpy as np

from recsys.contracts.request import Query, Rows
from recsys.items.catalogue import Catalogue


@dataclass(eq=False)
class FreshSource:
    """`recsys.pipeline.stages.Source`: the newest items, newest first.

    The order is the same for every user. When the catalogue has changed, one request recomputes it, at most every
    `refresh_ms`; the others use the old order meanwhile.

    max_age_ms: leave out older items; None: no limit.
    """

    catalogue: Catalogue
    limit: int = 50
    max_age_ms: int | None = None
    refresh_ms: int = 200
    name: str = "fresh"
    optional: bool = True

    def __post_init__(self) -> None:
        self._version = self.catalogue.version
        self._newest = _newest(self.catalogue, 10 * self.limit)
        self._refreshed_ms = 0
        self._lock = threading.Lock()

    def recall(self, query: Query) -> Rows:
        newest = self._current(query.now_ms)
        if self.max_age_ms is not None:
            newest = newest[self.catalogue.created_ms[newest] >= query.now_ms - self.max_age_ms]
        return newest[query.may_show(newest)][: self.limit]

    def _current(self, now_ms: int) -> Rows:
        version = self.catalogue.version
        is_due = version != self._version and abs(now_ms - self._refreshed_ms) >= self.refresh_ms
        if is_due and self._lock.acquire(blocking=False):
            try:
                self._newest = _newest(self.catalogue, 10 * self.limit)
                self._version, self._refreshed_ms = version, now_ms
            finally:
                self._lock.release()
        return self._newest


def _newest(catalogue: Catalogue, n: int) -> Rows:
    """The n newest items that exist and have a creation time; ties: the later row first."""
    created = catalogue.created_ms
    times = np.where(catalogue.alive[: len(created)], created, 0)
    rows = np.flatnonzero(times > 0)
    if len(rows) > n:
        rows = rows[np.argpartition(-times[rows], n - 1)[:n]]
    return rows[np.lexsort((-rows, -times[rows]))].astype(np.int32)
