"""Keeps catalogue and item features in process memory current, by the store's stream of changes.

Reading 500 items' features from Redis takes milliseconds per request; reading what changed takes microseconds once.
One thread applies every change, so a load cannot miss or reorder an update. A follower that raises is loaded again,
with growing delays while it keeps failing; the others stay current.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from recsys.contracts.errors import Unavailable
from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from recsys.store.base import FeatureStore

_BLOCK_MS = 200
# shortest and longest pause between two polls: several changes of an item cost what one costs, and a poll with few
# changes costs hardly less than one with many
_PAUSE_S = (0.3, 0.5)
_SHARE = 15.0  # the pause as a multiple of the last poll's processor time: requests get most of a core
_RETRY_S = 0.5
_MOST_RETRY_S = 60.0  # loads for a follower that keeps failing must not take the feed's whole time

_log = structlog.get_logger(__name__)


class Follower(Protocol):
    """What stays current: `LiveCatalogue` or `RecallService`."""

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        """Take over catalogue entries (None: deleted) and item states. Idempotent."""

    def refresh(self, now_ms: int) -> None:
        """Called after each poll: a chance to compute ahead of the requests."""


@dataclass
class _Entry:
    """One follower. `tried`: a load has been attempted. After `failures` in a row it is loaded at `retry_at`, and they
    are forgotten once it has worked until `well_at`."""

    follower: Follower
    tried: threading.Event = field(default_factory=threading.Event)
    loaded: bool = False
    failures: int = 0
    retry_at: float = 0.0
    well_at: float = 0.0
    error: str = ""


class ItemFeed:
    """Follows the store's changes for every attached follower. Thread-safe."""

    def __init__(self, store: FeatureStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._cursor: str | None = None  # None: unknown, everything must be read
        self._current_at = time.monotonic()
        self._stop = threading.Event()
        self._wanted = threading.Event()  # ends a pause: a follower waits to be loaded, or the feed closes
        self._thread = threading.Thread(target=self._follow_forever, name="item-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def attach(self, follower: Follower, timeout_s: float = 60.0) -> bool:
        """Give the follower everything that the store has, and every change from now on. False: the store is away or
        slower than `timeout_s`; the load happens as soon as it can."""
        entry = _Entry(follower)
        with self._lock:
            self._entries.append(entry)
        self._wanted.set()
        entry.tried.wait(timeout_s)
        return entry.loaded

    def detach(self, follower: Follower) -> None:
        with self._lock:
            self._entries = [entry for entry in self._entries if entry.follower is not follower]

    @property
    def age_s(self) -> float:
        """Seconds since every follower was last known to equal the store."""
        return time.monotonic() - self._current_at

    @property
    def error(self) -> str:
        """Why a follower is not current; empty: all are."""
        return next((entry.error for entry in self._snapshot() if entry.error), "")

    def close(self) -> None:
        self._stop.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow_forever(self) -> None:
        away = False
        pause_s = _PAUSE_S[0]
        while True:
            self._wanted.wait(pause_s)
            if self._stop.is_set():
                return
            self._wanted.clear()
            began = time.thread_time()
            try:
                self._step()
                pause_s = min(max(_PAUSE_S[0], _SHARE * (time.thread_time() - began)), _PAUSE_S[1])
                if away:
                    _log.info("the store is back; items are current again")
                away = False
            except Unavailable as error:
                if not away:
                    _log.warning("items are not refreshed", error=str(error))
                away = True
                self._release_waiting()
                self._stop.wait(_RETRY_S)
            except Exception:
                _log.exception("refreshing items failed; reading all of them again")
                self._cursor = None
                self._release_waiting()
                self._stop.wait(_RETRY_S)

    def _step(self) -> None:
        """1. get the position  2. load waiting followers, as of a later moment  3. apply what changed since."""
        if self._cursor is None:
            self._cursor, _ = self._store.changed_items("", 0)
            for entry in self._snapshot():
                entry.loaded = False
        self._load_waiting()
        cursor, changed = self._store.changed_items(self._cursor, _BLOCK_MS)
        if changed is None:
            self._cursor = None
            return
        if changed:
            self._apply(list(changed))
        self._cursor = cursor  # only now: if the store goes away in between, the changes are read again
        if not self.error:
            self._current_at = time.monotonic()
        for entry in self._loaded():
            self._try(entry, partial(entry.follower.refresh, self._now_ms()))

    def _apply(self, item_ids: list[str]) -> None:
        changes = list(self._store.catalogue(item_ids))
        states = list(zip(item_ids, self._store.items(item_ids), strict=True))
        for entry in self._loaded():
            self._try(entry, partial(entry.follower.apply, changes, states))

    def _load_waiting(self) -> None:
        for entry in self._snapshot():
            if not entry.loaded and time.monotonic() >= entry.retry_at:
                entry.loaded = self._try(entry, partial(self._load, entry.follower))
                entry.tried.set()

    def _load(self, follower: Follower) -> None:
        follower.apply(self._store.catalogue(), self._store.all_items())
        follower.refresh(self._now_ms())

    def _try(self, entry: _Entry, step: Callable[[], None]) -> bool:
        """Whether it worked. An error of the store ends the poll; one of the follower concerns it alone."""
        try:
            step()
        except Unavailable:
            raise
        except Exception as error:
            entry.loaded = False
            entry.failures += 1
            wait_s = min(_RETRY_S * 2 ** (entry.failures - 1), _MOST_RETRY_S)
            entry.retry_at = time.monotonic() + wait_s
            entry.well_at = entry.retry_at + wait_s
            entry.error = f"{type(error).__name__}: {error}"
            _log.exception("items cannot be refreshed; reading all of them again", retry_s=wait_s)
            return False
        if entry.failures and time.monotonic() >= entry.well_at:
            entry.failures, entry.error = 0, ""
        return True

    def _release_waiting(self) -> None:
        """Unblock `attach`; the followers are still loaded later."""
        for entry in self._snapshot():
            entry.tried.set()

    def _snapshot(self) -> list[_Entry]:
        with self._lock:
            return list(self._entries)

    def _loaded(self) -> list[_Entry]:
        return [entry for entry in self._snapshot() if entry.loaded]
