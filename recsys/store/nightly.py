"""Features of last night: what a batch job writes for serving, as JSON documents in Redis, a key each.

    NS:{nightly}:i:ITEM   name → value, see `recsys.features.documents`
    NS:{nightly}:u:USER   cells and histories of the user

Nothing updates a document until the next night. It is the ordinary design that the live store is set against
(`recsys case-study`), and a fallback for who runs no stream.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.errors import InvalidConfig, Unavailable
from recsys.features.documents import Document
from recsys.features.state import EntityState, Visit
from recsys.store.base import StateDefinition
from recsys.store.encoding import kept_histories
from recsys.store.redis import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

_PAGE = 500  # documents in one round trip
_document = msgspec.json.Decoder(dict[str, float]).decode


class _User(msgspec.Struct):
    """A user's document. A history that is the end of a longer one is not written."""

    cells: dict[str, int]
    histories: dict[str, list[Visit]]


_user = msgspec.json.Decoder(_User).decode
_encode = msgspec.json.Encoder().encode


class NightlyStore:
    """Thread-safe. Every method may raise `Unavailable`. Readers know it as `user` and `items`."""

    def __init__(
        self,
        url: str,
        features: StateDefinition,
        namespace: str = "recsys",
        timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """Never connects.

        Raises:
            InvalidConfig: the URL is not a Redis URL.
        """
        self._sizes = {history.name: history.size for history in features.histories}
        self._kept = {name: kept.name for name, kept in kept_histories(features.histories).items()}
        self._prefix = f"{namespace}:{{nightly}}:"
        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
                socket_timeout=timeout_s,
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
                protocol=2,
            )
        except ValueError as error:
            raise InvalidConfig(f"redis_url: {error}") from error

    def write_items(self, documents: Iterable[tuple[str, Document]]) -> int:
        """Write each item's document; how many there were."""
        return self._write("i", documents)

    def write_users(self, states: Iterable[tuple[str, EntityState]]) -> int:
        """Write each user's state; how many there were."""
        return self._write("u", ((user_id, self._document(state)) for user_id, state in states))

    def items(self, item_ids: Sequence[str]) -> list[Document | None]:
        """One MGET. None: no document."""
        if not item_ids:
            return []
        prefix = f"{self._prefix}i:"
        raws = self._call("mget", [prefix + item_id for item_id in item_ids])
        return [None if raw is None else _document(raw) for raw in raws]

    def user(self, user_id: str) -> EntityState:
        """Empty for who was unknown last night."""
        raw = self._call("get", f"{self._prefix}u:{user_id}")
        if raw is None:
            return EntityState()
        document = _user(raw)
        histories = {
            name: document.histories[kept][-self._sizes[name] :]
            for name, kept in self._kept.items()
            if kept in document.histories
        }
        return EntityState(document.cells, histories)

    def close(self) -> None:
        self._redis.close()

    def _document(self, state: EntityState) -> _User:
        kept = {name: visits for name, visits in state.histories.items() if self._kept.get(name) == name}
        return _User(dict(state.cells), kept)

    def _write(self, kind: str, contents: Iterable[tuple[str, Any]]) -> int:
        n, left = 0, iter(contents)
        while page := list(islice(left, _PAGE)):
            self._call("mset", {f"{self._prefix}{kind}:{key}": _encode(content) for key, content in page})
            n += len(page)
        return n

    def _call(self, command: str, argument: object) -> Any:
        try:
            return getattr(self._redis, command)(argument)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error
        except redis.OutOfMemoryError as error:
            raise Unavailable(f"Redis is full; raise maxmemory: {error}") from error
