"""Entities of a store that cannot be read: each is named in the log once and skipped."""

import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog

_MOST = 1_000  # names kept; above it only the count grows

R = TypeVar("R")
T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Damage:
    """Thread-safe; what the clients of one store in this process found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}

    def note(self, key: str, reason: str) -> None:
        """`key` cannot be used; it is skipped."""
        with self._lock:
            if key in self._found or len(self._found) >= _MOST:
                return
            self._found[key] = reason
        _log.error("an entity of the store is damaged and skipped", key=key, reason=reason)

    def unless(self, key: str, decode: Callable[[R], T], raw: R | None) -> T | None:
        """What is stored under the key; None where there is nothing, or what is not ours, which is noted."""
        try:
            return None if raw is None else decode(raw)
        except (ValueError, msgspec.MsgspecError) as error:
            self.note(key, str(error))
            return None

    def found(self) -> tuple[str, ...]:
        """The keys, the first found first; at most a thousand."""
        with self._lock:
            return tuple(self._found)
