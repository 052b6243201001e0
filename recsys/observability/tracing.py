"""Traces of one request through every process: what the code sees of OpenTelemetry, which it does not import.

Off, nobody holds a `Traces`, and the request path asks one question: is there one? On, spans are made by
`recsys.observability.otel`, the only module that imports OpenTelemetry. Between processes a span travels as a
`traceparent` header (W3C Trace Context) of HTTP requests and Kafka records.
"""

import importlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from recsys.contracts.errors import InvalidConfig

TRACEPARENT = "traceparent"
EXPORTERS = ("", "console", "otlp")

Headers = tuple[tuple[str, bytes], ...]  # of a record of the event log
P = ParamSpec("P")
T = TypeVar("T")
Value = str | int | float | bool


class Span(Protocol):
    """Something that began and will end. Times are Unix nanoseconds; none means now."""

    @property
    def headers(self) -> Headers:
        """What makes the span the parent of what another process does."""

    def child(self, name: str, start_ns: int | None = None) -> "Span": ...

    def end(self, end_ns: int | None = None, failed: str = "", **attributes: Value) -> None: ...


class Traces(Protocol):
    """Makes the first span of this process. Thread-safe."""

    def begin(self, name: str, parent: str = "", start_ns: int | None = None) -> Span:
        """`parent`: the `traceparent` that came with the request or record; empty: a trace begins here."""

    def close(self) -> None:
        """Export what has ended."""


# The span of the request that is worked on; set only when traces are on. A thread pool does not take it over by itself.
current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)


def current_headers() -> Headers:
    """What a record carries that the current request sends; nothing when traces are off."""
    span = current_span.get()
    return () if span is None else span.headers


def carried(work: Callable[P, T]) -> Callable[P, T]:
    """`work` as another thread should run it: within the current span, or as it is when there is none."""
    return work if current_span.get() is None else partial(copy_context().run, work)


def open_traces(exporter: str, service: str) -> Traces | None:
    """The traces of this process; None when `exporter` is empty.

    Args:
        exporter: `console` (standard error) or `otlp` (to OTEL_EXPORTER_OTLP_ENDPOINT).
        service: how traces name this process.

    Raises:
        InvalidConfig: another exporter, or a package is missing.
    """
    if not exporter:
        return None
    if exporter not in EXPORTERS:
        raise InvalidConfig(f"RECSYS_TRACES={exporter}: choose console or otlp, or leave it empty")
    try:
        otel = importlib.import_module(
            "recsys.observability.otel"
        )  # loads OpenTelemetry, which most processes never need
        traces: Traces = otel.OtelTraces(exporter, service)
    except ImportError as error:
        raise InvalidConfig(
            f"RECSYS_TRACES={exporter} needs {error.name}; install the extra: pip install 'recsys-reference[otel]'"
        ) from error
    return traces


def parent_of(headers: Sequence[tuple[str, bytes]]) -> str:
    """The `traceparent` among a record's headers; empty: none."""
    for name, value in headers:
        if name == TRACEPARENT:
            return value.decode("ascii", errors="replace")
    return ""
