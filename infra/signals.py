"""Ctrl-C and SIGTERM as an event, so that a process ends after the step it is in."""

import signal
import threading
from types import FrameType


def stop_event() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop
