"""A Redis Cluster: the client, and its masters."""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from redis.cluster import RedisCluster
from redis.commands.core import Script


class ClusterClient:
    """A `redis.cluster.RedisCluster` that connects on first use, as the client of one server does."""

    def __init__(self, connect: Callable[[], RedisCluster]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._cluster: RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        cluster = self._cluster
        if cluster is None:
            with self._lock:
                cluster = self._cluster = self._cluster or self._connect()
        return getattr(cluster, name)

    def register_script(self, text: str) -> Script:
        return Script(self, text.encode())  # type: ignore[arg-type]

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def masters(client: Any) -> list[Any]:
    """A client of each server that takes writes now. `client`: of `redis_client.connect`."""
    if not isinstance(client, ClusterClient):
        return [client]
    client.nodes_manager.initialize()  # an error of a node's own client would not lead to another look
    return [client.get_redis_connection(node) for node in client.get_primaries()]


def routed(client: Any, key: str) -> Mapping[str, Any]:
    """Options of a script's call in a pipeline: a cluster's client would ask the server for the script's keys."""
    return {"target_nodes": client.get_node_from_key(key)} if isinstance(client, ClusterClient) else {}
