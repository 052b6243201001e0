"""Recall and ranking in another process: stages and sessions that call it instead of computing.

The other side is `serving.remote.service`. Both sides have the same bundles, so rows of the item table mean the same
to both. Each process numbers items newer than the bundle as they arrive, so those travel by id.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import structlog
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.contracts.errors import RecsysError
from recsys.contracts.request import Query, Rows
from recsys.contracts.types import Head
from recsys.items.catalogue import Catalogue
from recsys.models.attributes import profile_rows
from recsys.pipeline.stages import Source
from recsys.ranking.scorer import OUTPUTS, Ranker
from serving.engine.artifacts import Artifacts
from serving.engine.pipeline_builder import LocalServices
from serving.remote.messages import NEAREST, PREPARE, RANK, Array, Nearest, NearestCall, Prepare, RankCall
from serving.remote.transport import RpcClient

_PREPARE_S = 120.0
_log = structlog.get_logger(__name__)


class RemoteRanker:
    """`recsys.ranking.scorer.Ranker`: the session of another process."""

    runtime: ClassVar[str] = "remote"

    def __init__(self, client: RpcClient, version: str) -> None:
        self._client = client
        self._version = version

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """Raises `Unavailable`."""
        call = RankCall(self._version, {name: Array.of(array) for name, array in arrays.items()})
        found = self._client.call(RANK, call, dict[str, Array])
        return {Head(name): found[name].numpy() for name in OUTPUTS}


class RemoteTwoTower:
    """`TwoTowerSource` with tower and index in another process."""

    name = "two_tower"
    optional = True

    def __init__(self, client: RpcClient, version: str, catalogue: Catalogue, limit: int) -> None:
        self._client = client
        self._version = version
        self._catalogue = catalogue
        self._limit = limit

    def recall(self, query: Query) -> Rows:
        """The nearest `limit` rows that may be shown; none for a user of whom nothing is known.
        Raises `Unavailable`: the other process is away, or has not loaded this bundle."""
        profile = profile_rows(query.attributes)
        if not query.history.any() and not profile.any():
            return np.empty(0, np.int32)
        history, types, gaps, known = (
            Array.of(a[None]) for a in (query.history, query.types, query.gaps, profile)
        )
        n = self._limit + min(query.hidden_from_user, self._limit)
        asked = query.now_ms, query.filter.text if query.filter else "", query.region
        call = NearestCall(self._version, history, types, gaps, known, n, *asked)
        rows = self._rows(self._client.call(NEAREST, call, Nearest))
        return rows[query.may_show(rows)][: self._limit]

    def _rows(self, nearest: Nearest) -> Rows:
        """This process's rows, without newer items that it does not know yet."""
        rows: Rows = nearest.rows.numpy()
        if not nearest.newer:
            return rows
        own = np.array([self._catalogue.rows.get(item_id, -1) for item_id in nearest.newer], np.int32)
        rows, newer = rows.copy(), rows < 0
        rows[newer] = own[-1 - rows[newer]]
        return rows[rows >= 0]


class RemoteServices(LocalServices):
    """Calls recall or ranking in another process; None: it runs in this one."""

    def __init__(self, recall: RpcClient | None = None, rank: RpcClient | None = None) -> None:
        self._recall = recall
        self._rank = rank
        self._clients = [client for client in (recall, rank) if client is not None]

    def prepare(self, version: str) -> None:
        """Ask the others to load a bundle. One that cannot is only logged: a service that is away must not keep this
        process from starting, and requests name it in `degraded`."""
        for client in self._clients:
            try:
                client.call(PREPARE, Prepare(version), bool, _PREPARE_S)
            except RecsysError as error:
                _log.warning("a remote service has not loaded the bundle", version=version, error=str(error))

    def ranker(self, bundle: Bundle, native: bool) -> Ranker:
        version = bundle.manifest.version
        return RemoteRanker(self._rank, version) if self._rank else super().ranker(bundle, native)

    def two_tower(self, artifacts: Artifacts, limit: int) -> Source:
        if self._recall is None:
            return super().two_tower(artifacts, limit)
        return RemoteTwoTower(self._recall, artifacts.bundle.manifest.version, artifacts.catalogue, limit)

    def close(self) -> None:
        for client in self._clients:
            client.close()
