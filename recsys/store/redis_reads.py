"""Reads that a request waits for: one round trip on a connection that the thread keeps.

A pool is there for callers that come and go. A few threads that read again and again need no lock to share it, no look
whether the connection is stale, and no conversion of replies: without them a read takes a third of the time. The
protocol is `redis.Connection`'s.
"""

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import redis

Command = Sequence[str | bytes | int]


class ThreadReads:
    """Thread-safe; connects as `client` does, on first use. For reads only: they may be sent twice."""

    def __init__(self, client: Any) -> None:
        """
        Args:
            client: of `redis_client.connect`.
        """
        self._pool = client.connection_pool
        self._kept = threading.local()
        self._opened: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def ask(self, *commands: Command) -> list[Any]:
        """The replies in order, as Redis sends them. A kept connection may be from before a restart: its failure is
        met by a new one, a new one's is raised.

        Raises:
            redis.RedisError, OSError: no connection, no answer in time, or an answer that is an error.
        """
        kept = getattr(self._kept, "connection", None)
        if kept is not None:
            try:
                return self._exchange(kept, commands)
            except redis.ConnectionError:
                pass
        return self._exchange(self._open(), commands)

    def close(self) -> None:
        """Of all threads. They connect again if they go on asking."""
        with self._lock:
            for connection in self._opened:
                connection.disconnect()

    def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        # not kept until the last reply is read: what is left unread would answer the next command
        self._kept.connection = None
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            replies = [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        self._kept.connection = connection
        return replies

    def _open(self) -> Any:
        """Connects with the first command."""
        opened = self._pool.connection_class(**self._pool.connection_kwargs)
        with self._lock:
            self._opened.add(opened)
        return opened
