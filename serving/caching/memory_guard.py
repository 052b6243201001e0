"""How much memory is left; caches shrink before there is none."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from serving.caching.cache import Cache

_LOW, _ENOUGH = 0.08, 0.16  # free memory: caches shrink below the first share, grow again above the second
_POLL_EVERY_S = 2.0
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")

_log = structlog.get_logger(__name__)


def memory_left() -> float:
    """Free share of the machine's memory, or of the container's if that is less; 1.0 where the system does not say."""
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
        limit, used = (int((_CGROUP / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
        used -= int(stat["inactive_file"])  # file cache that the kernel gives up at once
    except (OSError, KeyError, ValueError):  # no cgroup of our own, or "max"
        return 1.0
    return max(0.0, 1 - used / limit)


class MemoryGuard:
    """Halves the caches' bounds with each poll that finds little memory left; doubles them again, up to their first
    bounds, when there is enough. `caches`: the current ones; a new bundle brings new ones."""

    def __init__(
        self, caches: Callable[[], Iterable[Cache[Any, Any]]], left: Callable[[], float] = memory_left
    ) -> None:
        self._caches = caches
        self._left = left
        self._share = 1.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll_forever, name="memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def poll(self) -> None:
        left, before = self._left(), self._share
        if left < _LOW:
            self._share = max(self._share / 2, 1 / 64)
        elif left > _ENOUGH:
            self._share = min(self._share * 2, 1.0)
        if self._share != before:
            _log.info("caches resized", share=self._share, memory_left=round(left, 3))
        for cache in self._caches():
            wanted = int(cache.first_max_bytes * self._share)
            if cache.max_bytes != wanted:
                cache.resize(wanted)

    def _poll_forever(self) -> None:
        while not self._stop.wait(_POLL_EVERY_S):
            self.poll()
