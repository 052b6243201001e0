"""Batches prepared by a thread ahead of the model, and what they took to make."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def timed(source: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Each item with the seconds of processor time that the thread took to make it."""
    while True:
        began = time.thread_time()
        try:
            item = next(source)
        except StopIteration:
            return
        yield item, time.thread_time() - began


def prefetched(source: Iterator[T], ahead: int = 8) -> Iterator[T]:
    """The same items, prepared by a thread while the model computes. An error in the thread is raised here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in source:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            good, item = ready.get()
            if good:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stop.set()
