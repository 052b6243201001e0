"""The spans of one traced request: its stages, from their outcomes, and its reads from Redis."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from recsys.contracts.request import Answer
from recsys.contracts.state import EntityState
from recsys.observability.tracing import Span, current_span
from recsys.store.base import FeatureStore

T = TypeVar("T")
_NS_PER_MS = 1e6


def stage_spans(span: Span, answer: Answer) -> None:
    """One span per stage, from the outcomes of a pipeline that has just ended: stages know nothing of traces."""
    total_ms = max((outcome.began_ms + outcome.ms for outcome in answer.outcomes), default=0.0)
    began_ns = time.time_ns() - round(total_ms * _NS_PER_MS)
    for stage in answer.outcomes:
        start = began_ns + round(stage.began_ms * _NS_PER_MS)
        end = start + round(stage.ms * _NS_PER_MS)
        counts = {"count_in": stage.count_in, "count_out": stage.count_out}
        span.child(f"stage {stage.stage}", start).end(end, failed=stage.error, kind=stage.kind, **counts)


class TracedReads:
    """A store whose two reads of a request have a span each."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def user(self, user_id: str) -> EntityState:
        return _traced("redis user", lambda: self._store.user(user_id))

    def history_version(self, user_id: str, history: str) -> str:
        return _traced("redis history_version", lambda: self._store.history_version(user_id, history))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _traced(name: str, read: Callable[[], T]) -> T:
    parent = current_span.get()
    if parent is None:
        return read()
    span, failed = parent.child(name, time.time_ns()), ""
    try:
        return read()
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
        raise
    finally:
        span.end(failed=failed, system="redis")
