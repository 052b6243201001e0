"""A circuit breaker around another server: when it hangs, only a few requests wait for it, not all.

Own code, after reading what there is: pybreaker 1.4 holds its lock while it calls, so one request at a time would read;
circuitbreaker 2.1 has no lock, and lets every waiting thread through at once when it is half open; purgatory 3.0 is
made for asyncio and has no lock either. The bulkheads are the pools: computation, the disk and the network, and the
shadow have threads of their own (`serving.assembly`).
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from recsys.contracts.errors import Unavailable
from recsys.contracts.request import Query
from recsys.pipeline.stages import QueryHydrator

T = TypeVar("T")


class Breaker:
    """Closed: calls go through. After `failures` calls in a row raised `Unavailable` it opens: calls are refused at
    once. Every `retry_s` one call may try; when it succeeds, the breaker closes. Thread-safe."""

    def __init__(
        self, failures: int = 3, retry_s: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        return self._failed >= self._failures

    def call(self, function: Callable[[], T]) -> T:
        """The function's result.

        Raises:
            Unavailable: of the function, or at once while the breaker is open.
        """
        if self.open and not self._may_try():
            raise Unavailable("the online store does not answer; it is tried again in a moment")
        try:
            result = function()
        except Unavailable:
            with self._lock:
                self._failed += 1
                self._next_try = self._clock() + self._retry_s
            raise
        self._failed = 0
        return result

    def _may_try(self) -> bool:
        """True for one caller every `retry_s`."""
        with self._lock:
            if self._clock() < self._next_try:
                return False
            self._next_try = self._clock() + self._retry_s
            return True


class Guarded:
    """A query hydrator behind a breaker: `recsys.pipeline.stages.QueryHydrator`."""

    def __init__(self, stage: QueryHydrator, breaker: Breaker) -> None:
        self._stage = stage
        self._breaker = breaker

    @property
    def name(self) -> str:
        return self._stage.name

    @property
    def optional(self) -> bool:
        return self._stage.optional

    def hydrate_query(self, query: Query) -> Query:
        return self._breaker.call(lambda: self._stage.hydrate_query(query))
