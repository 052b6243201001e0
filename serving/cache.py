"""A bounded cache: least recently used out first, entries live for a time, and it says how well it does."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Thread-safe. At most `max_bytes` by `weigh`, each entry for `ttl_s` at most (None: until it is pushed out)."""

    def __init__(
        self,
        max_bytes: int,
        weigh: Callable[[V], int],
        ttl_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hits = self.misses = self.evictions = self.bytes = 0
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[float, int, V]] = OrderedDict()
        self._flights: dict[K, Future[V]] = {}

    def get(self, key: K) -> V | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._ttl_s is not None and self._clock() - entry[0] > self._ttl_s:
                self._remove(key)
                entry = None
            if entry is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[2]

    def put(self, key: K, value: V) -> None:
        """An entry heavier than the whole cache is not kept."""
        weight = self._weigh(value)
        with self._lock:
            self._remove(key)
            if weight > self._max_bytes:
                return
            self._entries[key] = (self._clock(), weight, value)
            self.bytes += weight
            while self.bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))
                self.evictions += 1

    def get_or_make(self, key: K, make: Callable[[], tuple[V, bool]]) -> V:
        """The cached value, or what `make` gives; it is kept when `make` says so too.

        Of several callers that miss the same key at once, one makes the value and the others wait for it.
        """
        value = self.get(key)
        if value is not None:
            return value
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

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry[1]
