"""How much memory is left, and caches that give some back before there is none."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from serving.caching.cache import Cache

_LOW, _ENOUGH = (
    0.08,
    0.16,
)  # of all memory that is left: caches shrink below the first, grow again above the second
_LOOK_EVERY_S = 2.0
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")

_log = structlog.get_logger(__name__)


def memory_left() -> float:
    """Share of the memory that may be used and is not: of the machine, or of the container if that is less.

    1.0 where the system does not say (no Linux).
    """
    return min(_machine(), _container())


def _machine() -> float:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        available, total = (int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return 1.0
    return available / total


def _container() -> float:
    try:
        limit, used = (
            int((_CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current")
        )
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
        used -= int(stat["inactive_file"])  # file cache that the kernel gives up at once
    except (OSError, KeyError, ValueError):  # no cgroup of our own, or "max"
        return 1.0
    return max(0.0, 1 - used / limit)


class MemoryGuard:
    """Halves the caches' bounds each time it looks and finds little memory left; doubles them again, up to what they
    were made with, when there is enough."""

    def __init__(
        self,
        caches: Callable[[], Iterable[Cache[Any, Any]]],
        left: Callable[[], float] = memory_left,
        every_s: float = _LOOK_EVERY_S,
    ) -> None:
        """
        Args:
            caches: those of now; a new bundle brings new ones.
        """
        self._caches = caches
        self._left = left
        self._every_s = every_s
        self._share = 1.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Once."""
        left, before = self._left(), self._share
        if left < _LOW:
            self._share = max(self._share / 2, 1 / 64)
        elif left > _ENOUGH:
            self._share = min(self._share * 2, 1.0)
        if self._share != before:
            _log.info("caches resized", share=self._share, memory_left=round(left, 3))
        for cache in self._caches():
            wanted = int(cache.made_with * self._share)
            if cache.max_bytes != wanted:
                cache.resize(wanted)

    def _look_forever(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()
