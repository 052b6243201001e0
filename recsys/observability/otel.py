"""`recsys.observability.tracing` by OpenTelemetry. Imported only when traces are on."""

import importlib
import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from recsys.observability.tracing import TRACEPARENT, Headers, Value

_propagator = TraceContextTextMapPropagator()


class OtelSpan:
    """One span of the SDK."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def headers(self) -> Headers:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span))
        return tuple((name, text.encode()) for name, text in carrier.items())

    def child(self, name: str, start_ns: int | None = None) -> "OtelSpan":
        within = trace.set_span_in_context(self._span)
        return OtelSpan(self._tracer, self._tracer.start_span(name, within, start_time=start_ns))

    def end(self, end_ns: int | None = None, failed: str = "", **attributes: Value) -> None:
        if name := attributes.pop("name", None):
            self._span.update_name(str(name))
        for key, value in attributes.items():
            self._span.set_attribute(f"recsys.{key}", value)
        if failed:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, failed))
        self._span.end(end_ns)


class OtelTraces:
    """A tracer without global state, so two apps in one process stay separate."""

    def __init__(self, exporter: str, service: str, processor: Any = None) -> None:
        """`processor`: receives the spans instead of `exporter`."""
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
        self._provider.add_span_processor(processor or _processor(exporter))
        self._tracer = self._provider.get_tracer("recsys")

    def begin(self, name: str, parent: str = "", start_ns: int | None = None) -> OtelSpan:
        context = _propagator.extract({TRACEPARENT: parent}) if parent else None
        return OtelSpan(self._tracer, self._tracer.start_span(name, context, start_time=start_ns))

    def close(self) -> None:
        self._provider.shutdown()


def _processor(exporter: str) -> Any:
    if exporter == "console":
        # each span at once, as one line of JSON: for debugging, not for load
        console = ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
        return SimpleSpanProcessor(console)
    otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    return BatchSpanProcessor(otlp.OTLPSpanExporter())
