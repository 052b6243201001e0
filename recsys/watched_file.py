"""A configuration file that is reloaded when it changes. If it becomes invalid, the last valid value stays in use."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from recsys.contracts.errors import InvalidConfig

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """Thread-safe. `read` raises `InvalidConfig` for an invalid file; `error` then says why."""

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], T],
        check_every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `InvalidConfig` for a file that is unreadable or invalid now; later that only sets `error`."""
        self.error = ""
        self._path = path
        self._read = read
        self._check_every_s = check_every_s
        self._clock = clock
        self._stamp = _stamp(path)
        self._value = read(path)
        self._checked_s = clock()
        self._lock = threading.Lock()

    @property
    def value(self) -> T:
        """The file's value, at most `check_every_s` old; never waits while another thread reloads it."""
        if self._clock() - self._checked_s >= self._check_every_s and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        self._checked_s = self._clock()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._value = self._read(self._path)
            self.error = ""
        except InvalidConfig as error:
            self.error = str(error)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
