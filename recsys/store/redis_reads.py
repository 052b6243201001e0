"""Reads that a request waits for: one round trip on a connection per thread.

A few threads that read all the time need no pool lock, no staleness check and no conversion of replies: without them a
read takes a third of the time. The protocol is `redis.Connection`'s.
"""

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import redis

from recsys.store.redis_client import is_wrong_type

Command = Sequence[str | bytes | int]


class ThreadReads:
    """Thread-safe; connects as `client` does, on first use. For reads only: they may be sent twice."""

    def __init__(self, client: Any) -> None:
        """`client`: of `redis_client.connect`."""
        self._pool = client.connection_pool
        self._local = threading.local()
        self._opened: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def ask(self, *commands: Command) -> list[Any]:
        """The replies in order, as Redis sends them; for a key of another type the error instead of its reply
        (`is_wrong_type`). An open connection may predate a restart, so its failure is retried on a new one.
        Raises `redis.RedisError` or `OSError`: no connection, no reply in time, an error."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._exchange(connection, commands)
            except redis.ConnectionError:
                pass
        return self._exchange(self._open(), commands)

    def close(self) -> None:
        """Close the connections of all threads; a later `ask` reconnects."""
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
        """Connects with the first command."""
        opened = self._pool.connection_class(**self._pool.connection_kwargs)
        with self._lock:
            self._opened.add(opened)
        return opened


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        if is_wrong_type(error):
            return error
        raise
