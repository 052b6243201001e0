"""Nightly features: JSON documents in Redis, one key each, that a batch job writes for serving.

    NS:{nightly}:i:ITEM   name → value, see `recsys.features.documents`
    NS:{nightly}:u:USER   cells and histories of the user
    NS:{nightly}:meta     fingerprint of the feature definitions that they were made with

A document stays until the next night and expires after three without an update. `RedisFeatureStore.forget_user`
removes a user's at once. This is the conventional design, with which `recsys case-study` compares the live store, and
a fallback without a stream.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import msgspec

from recsys.contracts.errors import FingerprintMismatch
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import MS_PER_DAY
from recsys.features.documents import Document
from recsys.store.base import StateDefinition
from recsys.store.damage import Damage
from recsys.store.encoding import stored_histories
from recsys.store.redis_client import READ_TIMEOUT_S, connect, redis_errors
from recsys.store.redis_merges import nightly_key
from recsys.store.redis_reads import open_reads

KEPT_MS = 3 * MS_PER_DAY  # survives two nights without the job
_PAGE = 500  # documents per round trip
_document = msgspec.json.Decoder(dict[str, float]).decode


class _User(msgspec.Struct):
    """A user's document. A history that is the end of a longer one is left out."""

    cells: dict[str, int]
    histories: dict[str, list[Visit]]


_user = msgspec.json.Decoder(_User).decode
_encode = msgspec.json.Encoder().encode


class NightlyStore:
    """Thread-safe. Every method may raise `Unavailable`. It reads `user` and `items` as a `FeatureStore` does."""

    def __init__(
        self,
        url: str,
        features: StateDefinition,
        namespace: str = "recsys",
        timeout_s: float = READ_TIMEOUT_S,
        damage: Damage | None = None,
    ) -> None:
        """Connects on first use; several stores may share a `damage`.
        Raises `InvalidConfig`: the URL is not a Redis URL."""
        self._sizes = {history.name: history.size for history in features.histories}
        self._stored = {name: kept.name for name, kept in stored_histories(features.histories).items()}
        self._fingerprint = features.fingerprint
        self._namespace = namespace
        self._redis = connect(url, timeout_s)
        self._reads = open_reads(self._redis)
        self._damage = damage or Damage()

    def write_items(self, documents: Iterable[tuple[str, Document]]) -> int:
        """Write each item's document; returns their number."""
        return self._write("i", documents)

    def write_users(self, states: Iterable[tuple[str, EntityState]]) -> int:
        """Write each user's state; returns their number."""
        return self._write("u", ((user_id, self._document(state)) for user_id, state in states))

    def check(self) -> None:
        """Raises `FingerprintMismatch`: the documents are of other feature definitions."""
        self._read([])

    def items(self, item_ids: Sequence[str]) -> list[Document | None]:
        """One MGET. None: no document, or a damaged one. Raises `FingerprintMismatch`: as `check`."""
        keys = [self._key("i", item_id) for item_id in item_ids]
        raws = self._read(keys)
        return [self._damage.unless(key, _document, raw) for key, raw in zip(keys, raws, strict=True)]

    def user(self, user_id: str) -> EntityState:
        """Empty for a user who was unknown last night. Raises `FingerprintMismatch`: as `check`."""
        key = self._key("u", user_id)
        [raw] = self._read([key])
        document = self._damage.unless(key, _user, raw)
        if document is None:
            return EntityState()
        histories = {
            name: document.histories[kept][-self._sizes[name] :]
            for name, kept in self._stored.items()
            if kept in document.histories
        }
        return EntityState(document.cells, histories)

    def close(self) -> None:
        self._reads.close()
        self._redis.close()

    def _document(self, state: EntityState) -> _User:
        kept = {name: visits for name, visits in state.histories.items() if self._stored.get(name) == name}
        return _User(dict(state.cells), kept)

    def _key(self, *parts: str) -> str:
        return nightly_key(self._namespace, *parts)

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read the fingerprint with the documents: a job of another version may write while this process serves."""
        with redis_errors():
            [found] = self._reads.ask(("MGET", self._key("meta"), *keys))
        meta: bytes | None = found[0]
        raws: list[bytes | None] = found[1:]
        written = meta.decode() if meta else ""
        if written != self._fingerprint and (written or any(raws)):
            raise FingerprintMismatch(
                f"the nightly documents of {self._namespace} are of the feature definitions "
                f"{written or 'of an earlier version'}, this process has {self._fingerprint}; run `recsys features "
                "nightly` of this version, then restart the API or publish the bundle again"
            )
        return raws

    def _write(self, kind: str, contents: Iterable[tuple[str, Any]]) -> int:
        self._drop_others()
        n, left = 0, iter(contents)
        while page := list(islice(left, _PAGE)):
            with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
                for key, content in page:
                    pipe.set(self._key(kind, key), _encode(content), px=KEPT_MS)
                pipe.execute()
            n += len(page)
        return n

    def _drop_others(self) -> None:
        """Remove all documents of other definitions, also of items and users that are gone."""
        with redis_errors():
            if self._redis.get(self._key("meta")) == self._fingerprint.encode():
                return
            for key in self._redis.scan_iter(self._key("*"), count=_PAGE):
                self._redis.unlink(key)
            self._redis.set(self._key("meta"), self._fingerprint)
