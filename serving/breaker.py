"""A circuit breaker around another server: while it hangs, only a few requests wait for it.

Own code because the libraries do not fit: pybreaker holds its lock while it calls, circuitbreaker has no lock and lets
every waiting thread through when it is half open, purgatory is made for asyncio. The bulkheads are the thread pools of
`serving.assembly`.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from recsys.contracts.errors import Unavailable
from recsys.contracts.request import Query
from recsys.pipeline.stages import QueryHydrator

T = TypeVar("T")
_FAILURES = 3
_RETRY_S = 0.5


class Breaker:
    """Opens after `_FAILURES` calls in a row raised `Unavailable`; then calls are refused at once. Every `_RETRY_S` one
    may try; its success closes the breaker. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        return self._failed >= _FAILURES

    def call(self, function: Callable[[], T]) -> T:
        """The function's result. Raises `Unavailable`: of the function, or at once while the breaker is open."""
        if self.open and not self._may_try():
            raise Unavailable("the online store does not answer; it is tried again in a moment")
        try:
            result = function()
        except Unavailable:
            with self._lock:
                self._failed += 1
                self._next_try = time.monotonic() + _RETRY_S
            raise
        self._failed = 0
        return result

    def _may_try(self) -> bool:
        """True for one caller every `_RETRY_S`."""
        with self._lock:
            if time.monotonic() < self._next_try:
                return False
            self._next_try = time.monotonic() + _RETRY_S
            return True


class Guarded:
    """A query hydrator behind a breaker: `recsys.pipeline.stages.QueryHydrator`."""

    def __init__(self, stage: QueryHydrator, breaker: Breaker) -> None:
        self.name = stage.name
        self.optional = stage.optional
        self._stage = stage
        self._breaker = breaker

    def hydrate_query(self, query: Query) -> Query:
        return self._breaker.call(lambda: self._stage.hydrate_query(query))
