"""Feature workers on one machine, as many as the load needs: `recsys stream worker --autoscale 1:4`.

The workers are processes of their own, which share the partitions by heartbeats (ADR 7). So starting and stopping them
is all that scaling takes, and one that dies costs no event. What arrives and what is late is read from the log and the
store, not from the workers: a worker that hangs cannot hide it.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from infra.capacity.autoscale.policy import Past, Policy, decide, needed
from infra.local.process import ChildProcess
from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import EventSource
from recsys.contracts.types import Topic
from recsys.store.base import FeatureStore

_EVERY_S = 2.0
_WINDOW_S = 10.0  # of rates
_STOP_S = 60.0  # for the batch in flight
_STEADY_S = 10.0  # one that has run for that long is replaced at once
_BACKOFF_S = (0.5, 30.0)  # first and longest wait before one that keeps ending is started again
_REFUSED = 2  # exit code of a command that has said what to do (infra.terminal)
_log = structlog.get_logger(__name__)


class Backlog:
    """What the log has and the store has not. `weights`: events per record, by topic."""

    def __init__(self, source: EventSource, store: FeatureStore, weights: Mapping[Topic, float]) -> None:
        self._source = source
        self._store = store
        self._weights = weights

    def look(self) -> tuple[float, float]:
        """Events that have ever arrived, and those that the partition that is furthest behind has yet to apply.
        Raises `Unavailable`: Kafka or Redis does not answer."""
        arrived, left = 0.0, dict[int, float]()
        for topic, weight in self._weights.items():
            for partition in range(self._source.partitions(topic)):
                end = self._source.end_offset(topic, partition)
                stored = self._store.checkpoint(topic, partition)
                behind = max(end - (stored.offset if stored else 0), 0)
                arrived += weight * end
                left[partition] = left.get(partition, 0.0) + weight * behind
        return arrived, max(left.values())


@dataclass
class _Slot:
    """The place of one worker; its processes follow each other."""

    number: int
    process: ChildProcess | None = None
    started: float = 0.0
    due: float = 0.0  # when the next one starts
    wait_s: float = _BACKOFF_S[0]


@dataclass
class WorkerPool:
    """A context manager: workers end with it. Use it from the main thread, with which they would end, too.

    `start`: starts the worker of a number, from 0. `size`: workers that are wanted; `replaced`: that have died.
    """

    policy: Policy
    backlog: Backlog
    start: Callable[[int], ChildProcess]
    replaced: int = 0
    largest: int = 0
    _slots: list[_Slot] = field(default_factory=list)
    _past: Past = field(default_factory=Past)
    _counts: deque[tuple[float, float]] = field(default_factory=deque)
    _rates: deque[tuple[float, float]] = field(default_factory=deque)

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def pids(self) -> list[int]:
        """Of the workers that were alive at the last step."""
        return [slot.process.pid for slot in self._slots if slot.process]

    def __enter__(self) -> Self:
        self._resize(min(self.policy.least, self.policy.cap))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resize(0)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Step until `wait(seconds)` says that it is time to stop."""
        while not wait(_EVERY_S):
            self.step(time.monotonic())

    def step(self, now: float) -> None:
        """Replace workers that have ended, and start or stop some if the load asks for it.
        Raises `Unavailable`: a worker ended with what a person has to do, such as after the topics have grown."""
        for slot in self._slots:
            self._look_after(slot, now)
        try:
            arrived, worst = self.backlog.look()
        except Unavailable as error:
            _log.warning("the number of workers stays: nothing is known of the load", reason=str(error))
            return
        self._note(now, arrived)
        need = needed(self.policy, list(self._rates), worst / self.policy.rate)
        self._past, wanted = decide(self.policy, self._past, now, self.size, need)
        if wanted != self.size:
            _log.info("scales the workers", running=self.size, wanted=wanted, behind=round(worst))
            self._resize(wanted)

    def _note(self, now: float, arrived: float) -> None:
        """Add the rate of the last seconds to what the trend is made of."""
        if self._counts:
            since, before = self._counts[0]
            self._rates.append((now, max(arrived - before, 0.0) / max(now - since, 1e-3)))
        self._counts.append((now, arrived))
        while now - self._counts[0][0] > _WINDOW_S:
            self._counts.popleft()
        while self._rates and now - self._rates[0][0] > self.policy.trend_s:
            self._rates.popleft()

    def _resize(self, wanted: int) -> None:
        while len(self._slots) < wanted:
            self._slots.append(_Slot(len(self._slots)))
            self._start(self._slots[-1])
        leaving = [slot.process for slot in self._slots[wanted:] if slot.process is not None]
        for process in leaving:  # all at once: none takes over partitions for the moment that it has left
            process.ask_to_stop()
        del self._slots[wanted:]
        for process in leaving:
            process.stop(_STOP_S)
        self.largest = max(self.largest, wanted)

    def _look_after(self, slot: _Slot, now: float) -> None:
        if slot.process is None:
            if now >= slot.due:
                self._start(slot)
            return
        if slot.process.alive:
            return
        tail = slot.process.log_tail(2)
        if slot.process.exit_code == _REFUSED:
            raise Unavailable(f"a worker cannot run: {tail}")
        _log.warning("a worker ended; another one replaces it", pid=slot.process.pid, said=tail)
        self.replaced += 1
        slot.process = None
        if time.monotonic() - slot.started > _STEADY_S:
            slot.wait_s, slot.due = _BACKOFF_S[0], now
        else:
            slot.due, slot.wait_s = now + slot.wait_s, min(2 * slot.wait_s, _BACKOFF_S[1])

    def _start(self, slot: _Slot) -> None:
        slot.started = time.monotonic()
        slot.process = self.start(slot.number)
