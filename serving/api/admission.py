"""Admission control: under overload, requests that would be answered late are refused at once."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from recsys.observability.tracing import carried
from serving.problems import Problem
from serving.settings import ServingSettings
from serving.telemetry import Telemetry

T = TypeVar("T")
_WORK_WEIGHT = 0.05  # of the latest computation in `work_s`: some twenty decide
# One computation counts as at most four times the average, and 10 ms as the least average: after a moment in which the
# whole machine stood still, nobody is refused whose turn would come in time; a store that stays slow is known soon.
_OUTLIER, _USUAL_S = 4.0, 0.01


class Admission:
    """Runs the computation of requests in a thread pool, and bounds how many wait for it."""

    def __init__(self, settings: ServingSettings, telemetry: Telemetry, cpu: Executor) -> None:
        self._settings = settings
        self._shed = telemetry.shed
        self._cpu = cpu
        self.in_flight = 0
        self.work_s = 0.0  # moving average of one computation in the pool

    def admit(self) -> None:
        """Refuse a request that would wait for more than half of its deadline: under overload the accepted ones are
        answered in time, not all of them late. While fewer wait than there are threads none is refused: slow answers,
        as when Redis has just gone, are no overload.

        Call it before any work for the request: a refusal takes time from the accepted ones.
        Raises `Problem`: 503 with Retry-After."""
        settings, waiting = self._settings, self.in_flight
        wait_s = waiting * self.work_s / settings.threads if waiting >= 2 * settings.threads else 0.0
        if waiting >= settings.max_in_flight or wait_s > settings.deadline_ms / 2e3:
            self._shed.inc()
            raise Problem(503, "too many requests; retry later")

    async def compute(self, work: Callable[..., T], *arguments: object) -> T:
        """Run a request's computation in the pool, or refuse it: `admit` once more, as others came meanwhile.
        Raises `Problem`: 503 with Retry-After."""
        self.admit()
        self.in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._cpu, carried(self._timed), work, *arguments
            )
        finally:
            self.in_flight -= 1

    def _timed(self, work: Callable[..., T], *arguments: object) -> T:
        began = time.monotonic()
        try:
            return work(*arguments)
        finally:  # a lost update between two threads is acceptable: it is an estimate
            took_s = min(time.monotonic() - began, _OUTLIER * max(self.work_s, _USUAL_S))
            self.work_s += _WORK_WEIGHT * (took_s - self.work_s)
