"""Responses by idempotency key, for clients that retry; shared by all processes."""

import threading
from collections import OrderedDict
from typing import Protocol

from recsys.store.redis_client import connect, redis_errors

_MEMORY_LIMIT = 10_000


class Replays(Protocol):
    """Thread-safe. The first value under a key stays."""

    def get(self, key: str) -> bytes | None:
        """Raises: Unavailable."""

    def put(self, key: str, value: bytes) -> None:
        """Raises: Unavailable."""


class MemoryReplays:
    """The latest ten thousand of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        with self._lock:
            self._values.setdefault(key, value)
            while len(self._values) > _MEMORY_LIMIT:
                self._values.popitem(last=False)


class RedisReplays:
    """In Redis, for `ttl_s` seconds each."""

    def __init__(self, url: str, ttl_s: int, timeout_s: float, namespace: str = "recsys") -> None:
        self._ttl_s = ttl_s
        self._namespace = namespace
        self._client = connect(url, timeout_s)

    def get(self, key: str) -> bytes | None:
        with redis_errors():
            value: bytes | None = self._client.get(self._name(key))
        return value

    def put(self, key: str, value: bytes) -> None:
        with redis_errors():
            self._client.set(self._name(key), value, ex=self._ttl_s, nx=True)

    def _name(self, key: str) -> str:
        return f"{self._namespace}:replay:{key}"
