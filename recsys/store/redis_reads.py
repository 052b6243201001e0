"""Reads that a request waits for: one round trip on a connection per thread, and on a cluster per node.

A few threads that read all the time need no pool lock, no staleness check and no conversion of replies: without them a
read takes a third of the time. The protocol is `redis.Connection`'s.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet

import redis
from redis.cluster import ClusterNode
from redis.exceptions import AskError, MovedError

from recsys.store.redis_client import is_wrong_type
from recsys.store.redis_cluster import ClusterClient

Command = Sequence[str | bytes | int]


class Reads(Protocol):
    """Thread-safe; connects as the client does, on first use. For reads only: they may be sent twice."""

    def ask(self, *commands: Command) -> list[Any]:
        """The replies in order, as Redis sends them; for a key of another type the error instead of its reply
        (`is_wrong_type`). An open connection may predate a restart, so its failure is retried on a new one. On a
        cluster, all keys are in one slot.
        Raises `redis.RedisError`, `RedisClusterException` or `OSError`: no connection, no reply in time, an error."""

    def close(self) -> None:
        """Close the connections of all threads; a later `ask` reconnects."""


def open_reads(client: Any) -> Reads:
    """`client`: of `redis_client.connect`."""
    return ClusterReads(client) if isinstance(client, ClusterClient) else ThreadReads(client)


class ThreadReads:
    """`Reads` of one server."""

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._local = threading.local()
        self._opened: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def ask(self, *commands: Command) -> list[Any]:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._exchange(connection, commands)
            except redis.ConnectionError:
                pass
        return self._exchange(self._open(), commands)

    def close(self) -> None:
        with self._lock:
            for connection in self._opened:
                connection.disconnect()

    def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        # not reusable until the last reply is read: an unread one would answer the next command
        self._local.connection = None
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            replies = [_reply(connection) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        self._local.connection = connection
        return replies

    def _open(self) -> Any:
        opened = self._pool.connection_class(**self._pool.connection_kwargs)
        with self._lock:
            self._opened.add(opened)
        opened.connect()  # sending would connect, too, but not ask Sentinel for the master
        return opened


class ClusterReads:
    """`Reads` of the node that has the slot, as the client knows it. A node that is away or says that it does not have
    the slot is looked for once more."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._nodes: dict[str, ThreadReads] = {}
        self._lock = threading.Lock()
        self._looks = 0  # at the slots

    def ask(self, *commands: Command) -> list[Any]:
        looks = self._looks
        try:
            return self._node(commands[0]).ask(*commands)
        except (MovedError, redis.ConnectionError):
            self._look_again(looks)
            return self._node(commands[0]).ask(*commands)
        except AskError:  # the slot is being moved: some keys are here, some there
            return [self._follow(command) for command in commands]

    def close(self) -> None:
        with self._lock:
            for reads in self._nodes.values():
                reads.close()

    def _look_again(self, looks: int) -> None:
        """Once for all threads that failed since then; forget nodes that are gone."""
        with self._lock:
            if self._looks != looks:
                return
            self._client.nodes_manager.initialize()
            self._looks += 1
            there = {node.name for node in self._client.get_nodes()}
            for name in self._nodes.keys() - there:
                self._nodes.pop(name).close()

    def _follow(self, command: Command) -> Any:
        try:
            [reply] = self._node(command).ask(command)
        except AskError as there:
            target = ClusterNode(there.host, there.port)  # type: ignore[no-untyped-call]
            _, reply = self._reads_of(target).ask(("ASKING",), command)
        return reply

    def _node(self, command: Command) -> ThreadReads:
        return self._reads_of(self._client.get_node_from_key(command[1]))

    def _reads_of(self, node: Any) -> ThreadReads:
        found = self._nodes.get(node.name)
        if found is None:
            with self._lock:
                reads = ThreadReads(self._client.get_redis_connection(node))
                found = self._nodes.setdefault(node.name, reads)
        return found


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        if is_wrong_type(error):
            return error
        raise
