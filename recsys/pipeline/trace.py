"""The guard around every stage: runs it, times it, and records its outcome."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from recsys.contracts.errors import InvalidFilter, StageFailed
from recsys.contracts.request import StageOutcome, Status
from recsys.pipeline.stages import Stage

T = TypeVar("T")


class _Attempt(NamedTuple, Generic[T]):
    """How a call went. began: `time.perf_counter`."""

    status: Status
    began: float
    ms: float = 0.0
    result: T | None = None
    error: Exception | None = None


def _attempt(call: Callable[[], T]) -> _Attempt[T]:
    began = time.perf_counter()
    try:
        result = call()
    except InvalidFilter:
        raise  # the request's fault, not the stage's
    except Exception as error:
        return _Attempt(Status.FAILED, began, (time.perf_counter() - began) * 1e3, error=error)
    return _Attempt(Status.OK, began, (time.perf_counter() - began) * 1e3, result)


def _cut(status: Status) -> _Attempt[Any]:
    """A call that ran out of time."""
    return _Attempt(status, time.perf_counter())


class Trace:
    """The outcomes of one request's stages, in order. `clock` is that of the deadline."""

    def __init__(self, deadline_s: float, clock: Callable[[], float]) -> None:
        self.outcomes: list[StageOutcome] = []
        self._deadline_s = deadline_s
        self._clock = clock
        self._began = time.perf_counter()

    @property
    def elapsed_ms(self) -> float:
        """Since the request entered the pipeline."""
        return (time.perf_counter() - self._began) * 1e3

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
            late_too: run an optional stage even after the deadline.

        Raises:
            StageFailed: a required stage raised.
        """
        is_late = not late_too and self._is_late(stage, self._deadline_s)
        attempt: _Attempt[T] = _cut(Status.SKIPPED) if is_late else _attempt(call)
        return self._settle(stage, kind, count_in, attempt, count_out)

    def run_all(
        self,
        pool: Executor | None,
        kind: str,
        calls: Sequence[tuple[Stage, Callable[[], T]]],
        until_s: float,
        count_out: Callable[[T], int] | None = None,
    ) -> dict[str, T]:
        """Call stages in parallel in the pool, or one after the other without one.

        Returns:
            Results by stage name, of the stages that finished by `until_s`. Required stages are awaited without limit.

        Raises:
            StageFailed: a required stage raised.
        """
        if pool is None:
            attempts = (
                _cut(Status.SKIPPED) if self._is_late(stage, until_s) else _attempt(call)
                for stage, call in calls
            )
        else:
            futures = [
                None if self._is_late(stage, until_s) else pool.submit(_attempt, call)
                for stage, call in calls
            ]
            attempts = (self._wait(call[0], f, until_s) for call, f in zip(calls, futures, strict=True))
        results: dict[str, T] = {}
        for (stage, _), attempt in zip(calls, attempts, strict=True):
            result = self._settle(stage, kind, 0, attempt, count_out)
            if result is not None:
                results[stage.name] = result
        return results

    def arrange(self, first: int, stages: Sequence[str]) -> None:
        """Bring the outcomes from the `first`-th on into the order of these stages."""
        self.outcomes[first:] = sorted(self.outcomes[first:], key=lambda o: stages.index(o.stage))

    def amend(self, **changes: Any) -> None:
        """Complete the latest outcome with what its result showed."""
        self.outcomes[-1] = replace(self.outcomes[-1], **changes)

    def _is_late(self, stage: Stage, until_s: float) -> bool:
        return stage.optional and self._clock() >= until_s

    def _wait(self, stage: Stage, future: "Future[_Attempt[T]] | None", until_s: float) -> _Attempt[T]:
        if future is None:
            return _cut(Status.SKIPPED)
        if not stage.optional or math.isinf(until_s):
            return future.result()
        try:
            return future.result(timeout=max(0.0, until_s - self._clock()))
        except FutureTimeout:
            future.cancel()  # stops a call that has not begun; a running one ends without effect
            return _cut(Status.TIMED_OUT)

    def _settle(
        self,
        stage: Stage,
        kind: str,
        count_in: int,
        attempt: _Attempt[T],
        count_out: Callable[[T], int] | None,
    ) -> T | None:
        n, error = count_in, ""
        if attempt.error is not None:
            error = f"{type(attempt.error).__name__}: {attempt.error}"
        elif attempt.status is not Status.OK:
            error = "out of time"
        elif count_out and attempt.result is not None:
            n = count_out(attempt.result)
        began_ms = (attempt.began - self._began) * 1e3
        self.outcomes.append(
            StageOutcome(stage.name, kind, attempt.status, count_in, n, attempt.ms, error, began_ms=began_ms)
        )
        if attempt.error is not None and not stage.optional:
            raise StageFailed(stage.name, error, tuple(self.outcomes)) from attempt.error
        return attempt.result
