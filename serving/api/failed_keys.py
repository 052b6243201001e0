"""Wrong keys: a client that keeps sending them waits longer for each 401.

A right key is never delayed, so users behind the same address do not notice. Waiting takes no thread.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from serving.problems import Problem

_FREE = 5.0  # failures that nobody waits for
_STEP_S, _LONGEST_S = 0.2, 3.0
_HALVED_S = 30.0  # failures count half as much after so long
_CLIENTS = 10_000  # remembered; the one that failed longest ago is forgotten first
_WAITING = 8  # of one client at a time; more are refused at once


class FailedKeys:
    """Failures by client (`serving.api.connections.client_of`). For one event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._failed: dict[str, tuple[float, float]] = {}  # client → failures, when; the latest at the end
        self._waiting: Counter[str] = Counter()

    async def note(self, client: str) -> None:
        """Count a failure and wait. Raises `Problem`: 429 when many of this client's failures are waiting already."""
        now = self._clock()
        failures, at = self._failed.pop(client, (0.0, now))
        failures = failures * 0.5 ** ((now - at) / _HALVED_S) + 1
        self._failed[client] = failures, now
        if len(self._failed) > _CLIENTS:
            del self._failed[next(iter(self._failed))]
        wait_s = min(_LONGEST_S, _STEP_S * (failures - _FREE))
        if wait_s <= 0:
            return
        if self._waiting[client] >= _WAITING:
            raise Problem(
                429, "too many wrong API keys; retry later", {"retry-after": str(round(_LONGEST_S))}
            )
        self._waiting[client] += 1
        try:
            await self._sleep(wait_s)
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
