"""From the commit until an item can be recommended: the API's item feed has told its catalogue."""

import threading
import time
from collections.abc import Callable, Iterable

from infra.evaluation.fault_injection.database.load import Ledger
from recsys.contracts.state import EntityState
from recsys.contracts.types import Item


class Recommendable:
    """A follower of the item feed, as `LiveCatalogue` is one. It notes when each committed change arrived; a change
    that a later one of its item has overtaken arrived with that."""

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._shown: dict[str, int] = {}
        self._lock = threading.Lock()
        self._arrived: dict[tuple[str, int], float] = {}

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        now = self._monotonic()
        with self._lock:
            for item_id, item in entries:
                if item is None:
                    continue
                number = int(item.title)
                for earlier in range(self._shown.get(item_id, 0) + 1, number + 1):
                    self._arrived[item_id, earlier] = now
                self._shown[item_id] = max(number, self._shown.get(item_id, 0))

    def refresh(self, now_ms: int) -> None:
        pass

    def seconds(self) -> list[float]:
        """Of each change that was committed and has arrived."""
        with self._lock, self._ledger.lock:
            # a change can arrive before its writer knows of the commit
            return [
                max(0.0, self._arrived[change] - at)
                for change, at in self._ledger.committed_at.items()
                if change in self._arrived
            ]
