"""Open the traces that `RECSYS_TRACES` names. OpenTelemetry is loaded only when they are on."""

from recsys.contracts.errors import InvalidConfig
from recsys.extras import extra_named
from recsys.observability.tracing import Traces


def open_traces(exporter: str, service: str) -> Traces | None:
    """The traces of this process; None when `exporter` is empty.

    Args:
        exporter: `console` (standard error) or `otlp` (to OTEL_EXPORTER_OTLP_ENDPOINT).
        service: the name of this process in traces.

    Raises:
        InvalidConfig: another exporter.
        MissingExtra: OpenTelemetry is not installed.
    """
    if not exporter:
        return None
    if exporter not in ("console", "otlp"):
        raise InvalidConfig(f"RECSYS_TRACES={exporter}: choose console or otlp, or leave it empty")
    with extra_named(f"RECSYS_TRACES={exporter}"):
        from recsys.observability.otel import OtelTraces  # most processes never need OpenTelemetry

        return OtelTraces(exporter, service)
