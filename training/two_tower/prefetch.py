"""Batches prepared by a thread ahead of the model."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """The items of `source`, prepared by a thread while the model computes. An error in the thread is raised here.

    cpu_s, waited_s: processor time that the latest item took to prepare, and how long the caller waited for it.
    """

    def __init__(self, source: Iterable[T], ahead: int = 8) -> None:
        self.cpu_s = self.waited_s = 0.0
        self._source = iter(source)
        self._ready: queue.Queue[tuple[Any, float, BaseException | None]] = queue.Queue(ahead)
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[T]:
        threading.Thread(target=self._work, name="prefetch", daemon=True).start()
        try:
            while True:
                asked = time.monotonic()
                item, self.cpu_s, error = self._ready.get()
                self.waited_s = time.monotonic() - asked
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            self._stop.set()

    def _work(self) -> None:
        item, error = None, None
        while error is None and not self._stop.is_set():
            began = time.thread_time()
            try:
                item = next(self._source)
            except BaseException as raised:  # StopIteration, too
                error = raised
            entry = (item, time.thread_time() - began, error)
            while not self._stop.is_set():
                try:
                    self._ready.put(entry, timeout=0.1)
                    break
                except queue.Full:
                    continue
