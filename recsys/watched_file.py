"""A configuration file that is reloaded when it changes. If it becomes invalid, the last valid value stays in use."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from recsys.contracts.errors import InvalidConfig

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class WatchedFile(Generic[T]):
    """Thread-safe. `read` raises `InvalidConfig` for an invalid file; `error` then says why."""

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], T],
        check_every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        default: T | None = None,
    ) -> None:
        """`default`: the value as long as the file has never been valid.
        Raises `InvalidConfig`: the file is unreadable or invalid now, and there is no default; later that only sets
        `error`."""
        self._error = ""
        self._path = path
        self._read = read
        self._check_every_s = check_every_s
        self._clock = clock
        self._stamp = _stamp(path)
        try:
            self._value = read(path)
        except InvalidConfig as error:
            if default is None:
                raise
            self._value = default
            self._refuse(error)
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

    @property
    def error(self) -> str:
        """Why the file's content is not in force; empty: it is. As old as `value`."""
        _ = self.value
        return self._error

    def _refresh(self) -> None:
        self._checked_s = self._clock()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._value = self._read(self._path)
            self._error = ""
        except InvalidConfig as error:
            self._refuse(error)

    def _refuse(self, error: InvalidConfig) -> None:
        self._error = str(error)
        _log.error("a file is not in force: what was valid before it stays", reason=self._error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)  # a link may change its target
