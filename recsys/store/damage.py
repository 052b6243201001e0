"""Entities of a store that cannot be read: each is named in the log once and skipped."""

import threading

import structlog

_MOST = 1_000  # names kept; above it only the count grows

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

    def found(self) -> tuple[str, ...]:
        """The keys, the first found first; at most a thousand."""
        with self._lock:
            return tuple(self._found)
