"""Writers of items, and a ledger of what they have committed.

A writer owns its items, so it knows the order of their changes; the n-th change of an item has the title "n". A write
that fails may have been committed: it is repeated until it succeeds, with the same titles.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.contracts.changes import ItemChange
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Item

_RETRY_S = 0.05
_TICK_S = 0.02


@dataclass
class Ledger:
    """The number of committed changes by item, and when each was committed (monotonic seconds). Thread-safe."""

    counts: dict[str, int] = field(default_factory=dict)
    committed_at: dict[tuple[str, int], float] = field(default_factory=dict)
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def changes(self) -> int:
        with self.lock:
            return len(self.committed_at)

    def add(self, changes: Sequence[tuple[str, int]]) -> None:
        now = time.monotonic()
        with self.lock:
            for key, number in changes:
                self.counts[key] = number
                self.committed_at[key, number] = now

    def fail(self) -> None:
        with self.lock:
            self.failures += 1


class Writers:
    """Threads that change `items` items together at `rate` changes per second (0: as fast as they can), in transactions
    of `batch`, until `stop` or after `most` changes."""

    def __init__(
        self,
        database: CatalogueDatabase,
        ledger: Ledger,
        items: int,
        threads: int,
        batch: int,
        rate: float = 0.0,
        most: int = 0,
        seed: int = 0,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._batch = batch
        self._pause_s = threads * batch / rate if rate else 0.0
        self._most = most // threads if most else 0
        self._stop = threading.Event()
        owned = [[f"item-{n}" for n in range(items) if n % threads == t] for t in range(threads)]
        self._threads = [
            threading.Thread(target=self._write, args=(keys, random.Random(seed + t)), daemon=True)  # noqa: S311
            for t, keys in enumerate(owned)
        ]

    def start(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def _write(self, keys: Sequence[str], rng: random.Random) -> None:
        numbers = {key: self._ledger.counts.get(key, 0) for key in keys}
        written, due = 0, time.monotonic()
        while not self._stop.is_set() and (not self._most or written < self._most):
            chosen = rng.sample(keys, min(self._batch, len(keys)))
            for key in chosen:
                numbers[key] += 1
            self._commit([(key, numbers[key]) for key in chosen])
            written += len(chosen)
            due += self._pause_s
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _commit(self, changes: Sequence[tuple[str, int]]) -> None:
        items = [
            ItemChange(key, Item(key, str(number), ("Drama",), "someone"), time.time_ns() // 1_000_000)
            for key, number in changes
        ]
        while True:
            try:
                self._database.put_items(items)
            except Unavailable:
                self._ledger.fail()
                time.sleep(_RETRY_S)
            else:
                return self._ledger.add(changes)
