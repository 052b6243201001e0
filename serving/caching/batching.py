"""Micro-batching: calls that arrive together from several threads become one call of a model."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

_GAP_WEIGHT = 0.1  # of the latest gap between two calls in the mean


class MicroBatcher(Generic[A, R]):
    """`call(x)` is `run([x])[0]`, but together with the arguments of other callers. Thread-safe.
    The first caller of a batch runs it in its own thread. It waits for others only when recent calls were so close
    that one is to be expected within `max_wait_s`; alone it never waits. `run` returns as many results as it gets
    arguments, at most `max_size`, in their order."""

    def __init__(
        self,
        run: Callable[[Sequence[A]], Sequence[R]],
        max_size: int,
        max_wait_s: float = 0.002,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batches = self.calls = 0
        self._run = run
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[tuple[A, Future[R]]] = []
        self._last = float("-inf")
        self._gap_s = float("inf")  # moving average between two calls

    def call(self, argument: A) -> R:
        """The result of this argument. What `run` raises, every caller of the batch gets."""
        mine: Future[R] = Future()
        with self._changed:
            self._note_gap()
            self._waiting.append((argument, mine))
            leads = len(self._waiting) == 1
            if len(self._waiting) >= self._max_size:
                self._changed.notify_all()
            if leads:
                batch = self._gather()
        if leads:
            # several runs when more than a full batch arrived before this caller woke
            for start in range(0, len(batch), self._max_size):
                self._run_batch(batch[start : start + self._max_size])
        return mine.result()

    def _note_gap(self) -> None:
        """A gap far longer than the wait only means idle time: it counts as twice the wait."""
        now = self._clock()
        gap = min(now - self._last, 2 * self._max_wait_s)
        self._gap_s = gap if self._gap_s == float("inf") else self._gap_s + _GAP_WEIGHT * (gap - self._gap_s)
        self._last = now

    def _gather(self) -> list[tuple[A, Future[R]]]:
        """Under the lock: wait if a call is to be expected, then take what is there."""
        if self._gap_s < self._max_wait_s:
            self._changed.wait_for(lambda: len(self._waiting) >= self._max_size, self._max_wait_s)
        batch, self._waiting = self._waiting, []
        return batch

    def _run_batch(self, batch: list[tuple[A, Future[R]]]) -> None:
        self.batches += 1
        self.calls += len(batch)
        try:
            results = self._run([argument for argument, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
