"""Marks of forgotten users, under NS:{p}:forgotten: what of theirs is still under way is dropped.

A mark is the digest of the id, and up to which event time it holds. Batches are cleaned here, by the marks as last
read; `apply.lua` refuses a batch made under an older version of them. `attributes.lua` reads the one mark it needs.
"""

from collections.abc import Callable, Sequence
from typing import Any

from recsys.lake.forget import is_forgotten, user_digest
from recsys.store.encoding import KeyedEvent
from recsys.store.redis_client import redis_errors

_VERSION = b"version"
_NONE: tuple[str, dict[str, int]] = "0", {}


class ForgottenMarks:
    """The marks of each partition, as last read; none of another hash tag."""

    def __init__(self, client: Any, key: Callable[[int | str], str]) -> None:
        """`key`: of a partition's marks."""
        self._redis = client
        self._key = key
        self._known: dict[int | str, tuple[str, dict[str, int]]] = {}  # version and marks

    def without(self, partition: int | str, rows: Sequence[KeyedEvent]) -> tuple[list[KeyedEvent], str]:
        """The rows but those of forgotten users, and the version of the marks that say so: the store refuses a batch of
        another one. Both at once, since another thread may read the marks meanwhile."""
        version, marks = self._known.get(partition, _NONE)
        left = [row for row in rows if not is_forgotten(marks, row.event.user_id, row.event.event_time_ms)]
        return left, version

    def read(self, partition: int | str) -> None:
        """Raises `Unavailable`: the store is."""
        with redis_errors():
            found = self._redis.hgetall(self._key(partition))
        version = found.pop(_VERSION, b"0").decode()
        self._known[partition] = version, {digest.decode(): int(until) for digest, until in found.items()}

    def add(self, pipe: Any, partition: int | str, user_id: str, until_ms: int) -> None:
        """Queue the change in a pipeline."""
        pipe.hset(self._key(partition), user_digest(user_id), until_ms)
        pipe.hincrby(self._key(partition), _VERSION, 1)
