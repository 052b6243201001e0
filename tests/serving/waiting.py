"""Waiting for what another thread does."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return once the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
