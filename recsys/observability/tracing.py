"""The interface of distributed traces, without OpenTelemetry.

`recsys.observability.exporters` opens the traces of a process. When they are off there is no `Traces` object, and the
request path only checks for one. Between processes a span travels as a `traceparent` header (W3C Trace Context) of HTTP
requests and Kafka records.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

TRACEPARENT = "traceparent"

Headers = tuple[tuple[str, bytes], ...]  # of a record of the event log
P = ParamSpec("P")
T = TypeVar("T")
Value = str | int | float | bool


class Span(Protocol):
    """An operation with a beginning and an end, in Unix nanoseconds; None: now."""

    @property
    def headers(self) -> Headers:
        """Headers that make this span the parent of spans in another process."""

    def child(self, name: str, start_ns: int | None = None) -> "Span": ...

    def end(self, end_ns: int | None = None, failed: str = "", **attributes: Value) -> None: ...


class Traces(Protocol):
    """Begins this process's first span of a trace. Thread-safe."""

    def begin(self, name: str, parent: str = "", start_ns: int | None = None) -> Span:
        """`parent`: the `traceparent` of the request or record; empty: begin a trace."""

    def close(self) -> None:
        """Export the spans that have ended."""


# The current request's span; set only when traces are on. A thread pool does not inherit it: see `carried`.
current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)


def current_headers() -> Headers:
    """Headers of a record that the current request sends; empty when traces are off."""
    span = current_span.get()
    return () if span is None else span.headers


def carried(work: Callable[P, T]) -> Callable[P, T]:
    """`work` for another thread: run within the current span, if there is one."""
    return work if current_span.get() is None else partial(copy_context().run, work)


def parent_of(headers: Sequence[tuple[str, bytes]]) -> str:
    """The `traceparent` of a record's headers; empty: none."""
    for name, value in headers:
        if name == TRACEPARENT:
            return value.decode("ascii", errors="replace")
    return ""
