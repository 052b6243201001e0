"""Recall and ranking by another process: the stages and sessions that take a hop instead of computing.

The other side is `serving.remote.service`. Both have the same bundles, so rows of the item table mean the same
in both; items that are newer than the bundle are numbered by each process as they arrive, so those travel by id.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.contracts.errors import RecsysError
from recsys.contracts.request import Query, Rows
from recsys.contracts.types import Head
from recsys.items.catalogue import Catalogue
from recsys.models.attributes import profile_rows
from recsys.ranking.scorer import OUTPUTS
from serving.remote.service import PREPARE, Nearest, NearestCall, Prepare, RankCall
from serving.remote.transport import Array, Hop

_PREPARE_S = 120.0
_log = structlog.get_logger(__name__)


class RemoteRanker:
    """`recsys.ranking.scorer.Ranker`: the session of another process."""

    def __init__(self, hop: Hop, version: str) -> None:
        self._hop = hop
        self._version = version

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """Raises: Unavailable."""
        call = RankCall(self._version, {name: Array.of(array) for name, array in arrays.items()})
        found = self._hop.call("/parts/rank", call, dict[str, Array])
        return {Head(name): found[name].numpy() for name in OUTPUTS}


class RemoteTwoTower:
    """`recsys.pipeline.stages.Source`: tower and index of another process. Asks as `TwoTowerSource` does."""

    def __init__(
        self,
        hop: Hop,
        version: str,
        catalogue: Catalogue,
        limit: int,
        name: str = "two_tower",
        optional: bool = True,
    ) -> None:
        self.name = name
        self.optional = optional
        self._hop = hop
        self._version = version
        self._catalogue = catalogue
        self._limit = limit

    def recall(self, query: Query) -> Rows:
        """The nearest `limit` rows that may be shown; nothing for somebody of whom nothing is known.

        Raises:
            Unavailable: the other process is away, or has not loaded this bundle.
        """
        profile = profile_rows(query.attributes)
        if not query.history.any() and not profile.any():
            return np.empty(0, np.int32)
        history, types, gaps, known = (
            Array.of(a[None]) for a in (query.history, query.types, query.gaps, profile)
        )
        n = self._limit + min(query.hidden, self._limit)
        call = NearestCall(self._version, history, types, gaps, known, n)
        rows = self._rows(self._hop.call("/parts/nearest", call, Nearest))
        return rows[query.may_show(rows)][: self._limit]

    def _rows(self, nearest: Nearest) -> Rows:
        """Rows of this process, without the newer items that it does not know yet."""
        rows: Rows = nearest.rows.numpy()
        if not nearest.newer:
            return rows
        own = np.array([self._catalogue.rows.get(item_id, -1) for item_id in nearest.newer], np.int32)
        rows, newer = rows.copy(), rows < 0
        rows[newer] = own[-1 - rows[newer]]
        return rows[rows >= 0]


@dataclass(frozen=True)
class Apart:
    """Which parts other processes have; None: this one."""

    recall: Hop | None = None
    rank: Hop | None = None

    def ranker(self, bundle: Bundle) -> RemoteRanker | None:
        return RemoteRanker(self.rank, bundle.manifest.version) if self.rank else None

    def two_tower(self, bundle: Bundle, catalogue: Catalogue, limit: int) -> RemoteTwoTower | None:
        if self.recall is None:
            return None
        return RemoteTwoTower(self.recall, bundle.manifest.version, catalogue, limit)

    def prepare(self, version: str) -> None:
        """Ask the others to load a bundle before this process answers with it. When one cannot, requests will say so
        in `degraded`: a part that is away must not keep this process from starting."""
        for hop in (self.recall, self.rank):
            if hop is None:
                continue
            try:
                hop.call(PREPARE, Prepare(version), bool, _PREPARE_S)
            except RecsysError as error:
                _log.warning("another process has not loaded the bundle", version=version, error=str(error))

    def close(self) -> None:
        for hop in (self.recall, self.rank):
            if hop is not None:
                hop.close()


TOGETHER = Apart()
