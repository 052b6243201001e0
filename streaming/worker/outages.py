"""Wait for servers that are away."""

import threading

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
)
from tenacity.wait import wait_exponential_jitter

from recsys.contracts.errors import Unavailable

_log = structlog.get_logger(__name__)


def retried(stop: threading.Event, max_backoff_s: float) -> Retrying:
    """Repeats a call that raises `Unavailable`, until it returns. Raises `RetryError`: `stop` was set before."""
    return Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential_jitter(multiplier=0.1, max=max_backoff_s),
        stop=stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        before_sleep=_say_what_for,
    )


def _say_what_for(waiting: RetryCallState) -> None:
    _log.warning("feature worker waits", reason=str(waiting.outcome and waiting.outcome.exception()))
