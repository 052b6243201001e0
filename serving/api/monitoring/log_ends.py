"""The end offsets of the event log, for the System view; read at most every two seconds."""

import threading
import time
from collections.abc import Callable, Sequence

from recsys.contracts.errors import RecsysError, Unavailable
from recsys.contracts.event_log import EventSource

_TTL_S = 2.0
_PAUSE_S = 15.0  # after a failure: a log that is away costs seconds


class LogEnds:
    """`ends(topic)` → the next offset of each partition. Thread-safe; connects on first use."""

    def __init__(
        self, connect: Callable[[], EventSource], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._source: EventSource | None = None
        self._ends: dict[str, tuple[float, Sequence[int]]] = {}
        self._away_until = 0.0

    def __call__(self, topic: str) -> Sequence[int]:
        """Raises `Unavailable`: the log does not answer, or did not a moment ago."""
        with self._lock:
            at, ends = self._ends.get(topic, (0.0, ()))
            if ends and self._clock() - at < _TTL_S:
                return ends
            if self._clock() < self._away_until:
                raise Unavailable("the event log did not answer a moment ago")
            try:
                if self._source is None:
                    self._source = self._connect()
                ends = [self._source.end_offset(topic, p) for p in range(self._source.partitions(topic))]
            except RecsysError as error:  # such as a password file that is gone
                self._away_until = self._clock() + _PAUSE_S
                self._drop()
                raise Unavailable(str(error)) from error
            self._ends[topic] = self._clock(), ends
            return ends

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()
