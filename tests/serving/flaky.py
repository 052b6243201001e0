"""A store and a log that can be switched off."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from recsys.contracts.errors import Unavailable
from recsys.store.memory import MemoryFeatureStore
from serving.ingest.segment import Message


class FlakySink:
    """`taken` is what it has acknowledged."""

    def __init__(self, up: bool = True) -> None:
        self.up = up
        self.taken: list[Message] = []
        self._queued: list[Message] = []

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._check()
        self._queued.append(Message(topic, key, value, tuple(headers)))

    def flush(self, timeout_s: float = 10.0) -> None:
        self._check()
        self.taken += self._queued
        self._queued = []

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if not self.up:
            raise Unavailable("Kafka is switched off")


class FlakyStore:
    """A `FeatureStore`: the memory one, whose calls to a server raise `Unavailable` while it is not `up`."""

    def __init__(self, inner: MemoryFeatureStore) -> None:
        self.inner = inner
        self.up = True
        self.refused: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if not self.up and name not in ("close", "damaged"):
                self.refused[name] += 1
                raise Unavailable("Redis is switched off")
            return method(*arguments, **options)

        return call
