"""A cache bounded in bytes, with SIEVE eviction, versions, times to live, counters and refresh ahead of expiry.

SIEVE (Zhang et al., NSDI 2024) keeps entries in the order in which they came. A hit marks its entry and moves nothing.
A hand goes from the oldest to the newest: it takes the mark from an entry that has one, and evicts the first without.
What is asked for once leaves soon, and what is popular stays; `recsys bench caches` compares it with others.

A key has one entry, of one version: what is made from something newer takes its place, and an overtaken value takes no
memory from others.

With each entry that comes, two others are looked at, and dropped if their time is over. Where lists live for a second,
nearly all of them are, and would stay until the hand comes.

A frequently used entry can be renewed in the background before it expires, so that no request waits for it and no
crowd of requests misses it at once.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_HOT_HITS = 2  # hits that make an entry hot
_SWEPT = 2  # entries for each that comes
_AHEAD = 0.7  # share of its time to live after which a hot entry is renewed


class _Entry(Generic[K, V]):
    """A link of a ring, from the oldest entry to the newest one."""

    __slots__ = (
        "hits",
        "key",
        "made_s",
        "marked",
        "newer",
        "older",
        "renewing",
        "ttl_s",
        "value",
        "version",
        "weight",
    )

    def __init__(self, key: K) -> None:
        self.key = key
        self.marked = False
        self.weight = 0
        self.newer: _Entry[K, V] = self
        self.older: _Entry[K, V] = self

    def fill(self, value: V, weight: int, version: Hashable, made_s: float, ttl_s: float) -> None:
        self.value, self.weight, self.version = value, weight, version
        self.made_s, self.ttl_s = made_s, ttl_s
        self.hits, self.renewing = 0, False

    def is_over(self, now_s: float) -> bool:
        return now_s - self.made_s > self.ttl_s


class Cache(Generic[K, V]):
    """Thread-safe. At most `max_bytes` by `weigh`. Every operation takes constant time, amortised."""

    def __init__(
        self,
        max_bytes: int,
        weigh: Callable[[V], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hits = self.misses = self.evictions = self.bytes = self.prefetched = 0
        self.first_max_bytes = self.max_bytes = max_bytes  # `resize` changes the latter
        self._weigh = weigh
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[K, _Entry[K, V]] = {}
        nothing: Any = None
        self._end = self._hand = self._broom = _Entry[K, V](nothing)  # between the newest and the oldest
        self._flights: dict[tuple[K, Hashable], Future[V]] = {}

    def get(self, key: K, version: Hashable = None) -> V | None:
        """The value, if it is of this version and its time is not over."""
        found = self._hit(key, version, renews=False)
        return None if found is None else found[0]

    def _hit(self, key: K, version: Hashable, renews: bool) -> tuple[V, bool] | None:
        """The value, and whether the caller, if it `renews` values, is the one to renew this one."""
        with self._lock:
            entry, now_s = self._entries.get(key), self._clock()
            if entry is None or entry.version != version or entry.is_over(now_s):
                self.misses += 1  # what is there keeps its place until the next value or the hand comes
                return None
            self.hits += 1
            entry.hits += 1
            entry.marked = True
            is_hot = entry.hits >= _HOT_HITS and not entry.renewing
            due = renews and is_hot and now_s - entry.made_s > _AHEAD * entry.ttl_s
            entry.renewing |= due
            return entry.value, due

    def put(self, key: K, value: V, ttl_s: float = math.inf, version: Hashable = None) -> None:
        """Replace what the key has. A value heavier than the whole cache is not stored."""
        weight = self._weigh(value)
        with self._lock:
            self._put(key, value, weight, ttl_s, version)

    def renew(self, key: K, value: V, ttl_s: float = math.inf, version: Hashable = None) -> None:
        """Put a value that was made ahead of expiry, unless there is no entry of this version any more."""
        weight = self._weigh(value)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.version == version:
                self._put(key, value, weight, ttl_s, version)
                self.prefetched += 1

    def resize(self, max_bytes: int) -> None:
        with self._lock:
            self.max_bytes = max_bytes
            self._evict_to(max_bytes)

    def get_or_make(
        self,
        key: K,
        make: Callable[[], tuple[V, float]],
        due: Callable[[], object] | None = None,
        version: Hashable = None,
    ) -> V:
        """The cached value, or what `make` returns; its second result says for how many seconds to cache it, 0 for not
        at all. Of several callers that miss the same key and version at once, one makes the value and the others wait
        for it. `due` is called once for a hot entry that expires soon: a chance to `renew` it in the background."""
        found = self._hit(key, version, renews=due is not None)
        if found is not None:
            if due is not None and found[1]:
                due()
            return found[0]
        mine: Future[V] = Future()
        with self._lock:
            flight = self._flights.setdefault((key, version), mine)
        if flight is not mine:
            return flight.result()
        try:
            value, ttl_s = make()
            if ttl_s > 0:
                self.put(key, value, ttl_s, version)
            mine.set_result(value)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key, version]
        return value

    def _put(self, key: K, value: V, weight: int, ttl_s: float, version: Hashable) -> None:
        """What is there already keeps its place and its mark."""
        entry = self._entries.get(key)
        if weight > self.max_bytes:
            if entry is not None:
                self._remove(entry)
            return
        if entry is None:
            self._evict_to(self.max_bytes - weight)
            entry = self._entries[key] = _Entry(key)
            entry.older, entry.newer = self._end.older, self._end
            entry.older.newer = self._end.older = entry
        self.bytes += weight - entry.weight
        entry.fill(value, weight, version, self._clock(), ttl_s)
        self._evict_to(self.max_bytes)  # the new value may be heavier than the one before
        self._sweep()

    def _sweep(self) -> None:
        """Go two entries further round the ring, so that none stays for long after its time."""
        now_s = self._clock()
        for _ in range(_SWEPT):
            entry, self._broom = self._broom, self._broom.newer
            if entry is not self._end and entry.is_over(now_s):
                self._remove(entry)

    def _evict_to(self, most_bytes: int) -> None:
        while self.bytes > most_bytes:
            self._evict()

    def _evict(self) -> None:
        now_s = self._clock()
        entry = self._hand
        while entry is self._end or (entry.marked and not entry.is_over(now_s)):
            entry.marked = False
            entry = entry.newer
        self._hand = entry
        self._remove(entry)
        self.evictions += 1

    def _remove(self, entry: _Entry[K, V]) -> None:
        if entry is self._hand:
            self._hand = entry.newer
        if entry is self._broom:
            self._broom = entry.newer
        entry.older.newer, entry.newer.older = entry.newer, entry.older
        del self._entries[entry.key]
        self.bytes -= entry.weight
