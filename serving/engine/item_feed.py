"""Items in process memory, kept current by the store's stream of changes: what is in the catalogue, and item features.

Reading 500 items' features from Redis takes milliseconds a request; reading what changed takes microseconds once.
One thread owns every change, so what is being loaded cannot miss or reorder an update. A follower that raises is set
aside and loaded anew, less and less often while it goes on; the others stay current.
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
# least and most between two looks: many changes of an item at once cost what one costs, and a look that finds few
# costs hardly less than one that finds many
_PAUSE_S = (0.3, 0.5)
_SHARE = 15.0  # the pause is so many times the processor time of the last look: requests have most of a core
_RETRY_S = 0.5
_MOST_RETRY_S = (
    60.0  # loading everything for a follower that fails each time must not take the feed's whole time
)

_log = structlog.get_logger(__name__)


class Follower(Protocol):
    """What is kept current: `serving.engine.live_catalogue.LiveCatalogue`."""

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        """Take over catalogue entries (None: deleted) and item states. Doing it again changes nothing."""

    def refresh(self, now_ms: int) -> None:
        """Called often: a chance to compute ahead of the requests."""


@dataclass
class _Entry:
    """One follower. `tried`: a load has been attempted. After `failures` in a row it is loaded at `retry_at` of the
    clock, and counts as well again once it has worked until `well_at`."""

    follower: Follower
    tried: threading.Event = field(default_factory=threading.Event)
    loaded: bool = False
    failures: int = 0
    retry_at: float = 0.0
    well_at: float = 0.0
    error: str = ""


class ItemFeed:
    """Follows the store's changes for every attached follower. Thread-safe."""

    def __init__(
        self, store: FeatureStore, now_ms: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._cursor: str | None = None  # None: position unknown, everything must be read again
        self._current_at = clock()
        self._stop = threading.Event()
        self._wanted = threading.Event()  # ends a pause: somebody waits to be loaded, or the end
        self._thread = threading.Thread(target=self._follow_forever, name="item-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def attach(self, follower: Follower, timeout_s: float = 60.0) -> bool:
        """Give the follower everything that the store has, and every change from now on.

        False: the store is away, or slower than `timeout_s`; it is done as soon as it can be.
        """
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
        return self._clock() - self._current_at

    @property
    def error(self) -> str:
        """Why a follower is set aside; empty: none is."""
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
                self._give_up_waiting()
                self._stop.wait(_RETRY_S)
            except Exception:
                _log.exception("refreshing items failed; reading all of them again")
                self._cursor = None
                self._give_up_waiting()
                self._stop.wait(_RETRY_S)

    def _step(self) -> None:
        """1. know the position  2. load who waits, from a later moment than it  3. apply what changed after it."""
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
        self._cursor = cursor  # only now: when the store goes away in between, the changes are read again
        if not self.error:
            self._current_at = self._clock()
        for entry in self._loaded():
            self._try(entry, partial(entry.follower.refresh, self._now_ms()))

    def _apply(self, item_ids: list[str]) -> None:
        changes = list(self._store.catalogue(item_ids))
        states = list(zip(item_ids, self._store.items(item_ids), strict=True))
        for entry in self._loaded():
            self._try(entry, partial(entry.follower.apply, changes, states))

    def _load_waiting(self) -> None:
        for entry in self._snapshot():
            if not entry.loaded and self._clock() >= entry.retry_at:
                entry.loaded = self._try(entry, partial(self._load, entry.follower))
                entry.tried.set()

    def _load(self, follower: Follower) -> None:
        follower.apply(self._store.catalogue(), self._store.all_items())
        follower.refresh(self._now_ms())

    def _try(self, entry: _Entry, step: Callable[[], None]) -> bool:
        """Whether it worked. What the store raises ends the look; what the follower raises sets it aside."""
        try:
            step()
        except Unavailable:
            raise
        except Exception as error:
            entry.loaded = False
            entry.failures += 1
            wait_s = min(_RETRY_S * 2 ** (entry.failures - 1), _MOST_RETRY_S)
            entry.retry_at = self._clock() + wait_s
            entry.well_at = entry.retry_at + wait_s
            entry.error = f"{type(error).__name__}: {error}"
            _log.exception("items cannot be refreshed; reading all of them again", retry_s=wait_s)
            return False
        if entry.failures and self._clock() >= entry.well_at:
            entry.failures, entry.error = 0, ""
        return True

    def _give_up_waiting(self) -> None:
        """Let those go on who wait in `attach`; they are still loaded later."""
        for entry in self._snapshot():
            entry.tried.set()

    def _snapshot(self) -> list[_Entry]:
        with self._lock:
            return list(self._entries)

    def _loaded(self) -> list[_Entry]:
        return [entry for entry in self._snapshot() if entry.loaded]
