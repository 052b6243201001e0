"""The guard around every stage: runs it, times it, and writes down how it went."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from recsys.contracts.errors import StageFailed
from recsys.contracts.request import StageOutcome, Status
from recsys.pipeline.stages import Stage

T = TypeVar("T")


class _Finished(NamedTuple, Generic[T]):
    """What a call came to: a result or an error, when it began (`time.perf_counter`) and the milliseconds it took."""

    began: float
    ms: float
    result: T | None = None
    error: Exception | None = None


def _attempt(call: Callable[[], T]) -> _Finished[T]:
    began = time.perf_counter()
    try:
        result = call()
    except Exception as error:
        return _Finished(began, (time.perf_counter() - began) * 1e3, error=error)
    return _Finished(began, (time.perf_counter() - began) * 1e3, result=result)


class Trace:
    """The outcomes of one request's stages, in order. `clock` is the one of the deadline."""

    def __init__(self, deadline_s: float, clock: Callable[[], float]) -> None:
        self.outcomes: list[StageOutcome] = []
        self._deadline_s = deadline_s
        self._clock = clock
        self._began = time.perf_counter()

    def run(
        self,
        stage: Stage,
        kind: str,
        count_in: int,
        call: Callable[[], T],
        count_out: Callable[[T], int] | None = None,
        late_too: bool = False,
    ) -> T | None:
        """Call a stage in this thread. None: it is optional, and was skipped or failed.

        Args:
            late_too: an optional stage is not skipped after the deadline either.

        Raises:
            StageFailed: it is required and raised.
        """
        if stage.optional and not late_too and self._clock() >= self._deadline_s:
            self._cut(stage, kind, Status.SKIPPED, count_in)
            return None
        return self._settle(stage, kind, count_in, _attempt(call), count_out)

    def run_all(
        self,
        pool: Executor | None,
        kind: str,
        calls: Sequence[tuple[Stage, Callable[[], T]]],
        until_s: float,
        count_out: Callable[[T], int] | None = None,
    ) -> dict[str, T]:
        """Call stages side by side in the pool, or without one in turn; results by name of those that were done by
        `until_s`.

        Required stages are waited for without limit.

        Raises:
            StageFailed: a required one raised.
        """
        if pool is None:
            outcomes = (self._attempt_in_time(stage, call, until_s) for stage, call in calls)
        else:
            futures = [
                None if self._is_late(stage, until_s) else pool.submit(_attempt, call)
                for stage, call in calls
            ]
            outcomes = (self._wait(call[0], f, until_s) for call, f in zip(calls, futures, strict=True))
        results: dict[str, T] = {}
        for (stage, _), outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Status):
                self._cut(stage, kind, outcome, 0)
                continue
            result = self._settle(stage, kind, 0, outcome, count_out)
            if result is not None:
                results[stage.name] = result
        return results

    def amend(self, **changes: Any) -> None:
        """Complete the latest outcome with what was learnt from its result."""
        self.outcomes[-1] = replace(self.outcomes[-1], **changes)

    def _is_late(self, stage: Stage, until_s: float) -> bool:
        return stage.optional and self._clock() >= until_s

    def _attempt_in_time(self, stage: Stage, call: Callable[[], T], until_s: float) -> _Finished[T] | Status:
        return Status.SKIPPED if self._is_late(stage, until_s) else _attempt(call)

    def _wait(
        self, stage: Stage, future: "Future[_Finished[T]] | None", until_s: float
    ) -> _Finished[T] | Status:
        if future is None:
            return Status.SKIPPED
        if not stage.optional or math.isinf(until_s):
            return future.result()
        try:
            return future.result(timeout=max(0.0, until_s - self._clock()))
        except FutureTimeout:
            future.cancel()  # helps when it has not begun; one that has runs to its end, unheard
            return Status.TIMED_OUT

    def _settle(
        self,
        stage: Stage,
        kind: str,
        count_in: int,
        finished: _Finished[T],
        count_out: Callable[[T], int] | None,
    ) -> T | None:
        if finished.error is not None:
            error = f"{type(finished.error).__name__}: {finished.error}"
            self._record(stage, kind, Status.FAILED, count_in, count_in, finished.ms, finished.began, error)
            if not stage.optional:
                raise StageFailed(stage.name, error, tuple(self.outcomes)) from finished.error
            return None
        result = finished.result
        n = count_out(result) if count_out and result is not None else count_in
        self._record(stage, kind, Status.OK, count_in, n, finished.ms, finished.began)
        return result

    def _cut(self, stage: Stage, kind: str, status: Status, count: int) -> None:
        self._record(stage, kind, status, count, count, 0.0, time.perf_counter(), "out of time")

    def _record(
        self,
        stage: Stage,
        kind: str,
        status: Status,
        count_in: int,
        count_out: int,
        ms: float,
        began: float,
        error: str = "",
    ) -> None:
        began_ms = (began - self._began) * 1e3
        outcome = StageOutcome(stage.name, kind, status, count_in, count_out, ms, error, began_ms=began_ms)
        self.outcomes.append(outcome)
