"""A bounded cache with least-recently-used eviction, a time to live, counters and refresh ahead of expiry.

A frequently used entry can be renewed in the background before it expires, so that no request waits for it and no
crowd of requests misses it at once.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_HOT_HITS = 2  # hits that make an entry hot
_AHEAD = 0.7  # share of its time to live after which a hot entry is renewed


@dataclass(slots=True)
class _Entry(Generic[V]):
    made_s: float
    weight: int
    value: V
    hits: int = 0
    renewing: bool = False


class Cache(Generic[K, V]):
    """Thread-safe. At most `max_bytes` by `weigh`, each entry for `ttl_s` at most (None: until it is evicted)."""

    def __init__(
        self,
        max_bytes: int,
        weigh: Callable[[V], int],
        ttl_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hits = self.misses = self.evictions = self.bytes = self.prefetched = 0
        self.first_max_bytes = self.max_bytes = max_bytes  # `resize` changes the latter
        self._weigh = weigh
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._flights: dict[K, Future[V]] = {}

    def get(self, key: K) -> V | None:
        entry = self._hit(key)
        return None if entry is None else entry.value

    def _hit(self, key: K) -> _Entry[V] | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._ttl_s is not None and self._clock() - entry.made_s > self._ttl_s:
                self._remove(key)
                entry = None
            if entry is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            entry.hits += 1
            return entry

    def put(self, key: K, value: V) -> None:
        """An entry heavier than the whole cache is not stored."""
        weight = self._weigh(value)
        with self._lock:
            self._remove(key)
            if weight > self.max_bytes:
                return
            self._entries[key] = _Entry(self._clock(), weight, value)
            self.bytes += weight
            self._evict()

    def renew(self, key: K, value: V) -> None:
        """Put a value that was made ahead of expiry."""
        self.put(key, value)
        self.prefetched += 1

    def resize(self, max_bytes: int) -> None:
        with self._lock:
            self.max_bytes = max_bytes
            self._evict()

    def get_or_make(
        self, key: K, make: Callable[[], tuple[V, bool]], due: Callable[[], object] | None = None
    ) -> V:
        """The cached value, or what `make` returns; its second result says whether to cache it.
        Of several callers that miss the same key at once, one makes the value and the others wait for it. `due` is
        called once for a hot entry that expires soon: a chance to `renew` it in the background."""
        entry = self._hit(key)
        if entry is not None:
            if due is not None and self._is_due(entry):
                entry.renewing = True
                due()
            return entry.value
        mine: Future[V] = Future()
        with self._lock:
            flight = self._flights.setdefault(key, mine)
        if flight is not mine:
            return flight.result()
        try:
            value, keep = make()
            if keep:
                self.put(key, value)
            mine.set_result(value)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]
        return value

    def _is_due(self, entry: _Entry[V]) -> bool:
        if self._ttl_s is None or entry.renewing or entry.hits < _HOT_HITS:
            return False
        return self._clock() - entry.made_s > _AHEAD * self._ttl_s

    def _evict(self) -> None:
        while self.bytes > self.max_bytes:
            self._remove(next(iter(self._entries)))
            self.evictions += 1

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.weight
