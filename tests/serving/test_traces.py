"""One trace from the HTTP request to the worker: stages, Redis, the headers of records; and nothing when it is off."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.observability.exporters import open_traces
from recsys.observability.otel import OtelTraces
from recsys.observability.tracing import parent_of
from recsys.store.memory import MemoryFeatureStore
from serving.api.app import create_app
from serving.assembly import Services, compose
from serving.engine.request_spans import TracedReads
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from serving.settings import ServingSettings
from serving.telemetry import Telemetry
from streaming.worker.feature_worker import FeatureWorker
from tests.bundles import write_tiny_bundle
from tests.memory_event_log import MemoryEventLog
from tests.serving.conftest import Api
from tests.serving.flaky import FlakySink

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = int("0af7651916cd43dd8448eb211c80319c", 16)


class Traced:
    """An API and a worker on one log and one store, each with traces of its own that end in one place."""

    def __init__(self, home: Path) -> None:
        write_tiny_bundle(home / "bundles", "v1")
        self.exporter = InMemorySpanExporter()
        self.log, self.store = MemoryEventLog(), MemoryFeatureStore(FEATURES)
        reads: Any = TracedReads(self.store)
        made: list[Services] = []

        def services(given: ServingSettings, telemetry: Telemetry) -> Services:
            made.append(compose(given, telemetry, self.store, reads, self.log))
            return made[0]

        settings = ServingSettings(home=home, deadline_ms=20_000)
        self.client = TestClient(create_app(settings, services, self.traces("recsys-api")))
        self.client.__enter__()
        self.services = made[0]

    def traces(self, service: str) -> OtelTraces:
        return OtelTraces("", service, SimpleSpanProcessor(self.exporter))

    def work(self) -> None:
        """Deliver what was accepted, and let the worker apply it."""
        self.services.outboxes.events.flush(10)
        self.services.outboxes.impressions.flush(10)
        worker = FeatureWorker(self.store, self.log, traces=self.traces("recsys-worker"))
        worker.own(range(4))
        source = self.log.source()
        while worker.step(source):
            pass

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    made = Traced(tmp_path)
    yield made
    made.client.__exit__(None, None, None)


def service(span: ReadableSpan) -> object:
    return span.resource.attributes["service.name"]


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def test_an_event_is_one_trace_from_the_client_to_the_workers_redis(traced: Traced) -> None:
    event = {"type": "click", "user_id": "u1", "item_id": "item-003"}
    traced.client.post("/v1/events", json=event, headers={"traceparent": CLIENT})
    traced.work()
    spans = traced.spans()
    request, applied, redis = spans["POST /v1/events"], spans["apply events"], spans["redis apply"]
    assert {ids(span)[0] for span in (request, applied, redis)} == {TRACE}
    assert parent(request) == int("b7ad6b7169203331", 16)
    assert parent(applied) == ids(request)[1]
    assert parent(redis) == ids(applied)[1]
    assert (service(request), service(applied)) == ("recsys-api", "recsys-worker")
    assert applied.attributes is not None
    assert applied.attributes["recsys.outcome"] == "applied"


def test_a_recommendation_has_a_span_a_stage_its_reads_and_the_impression(traced: Traced) -> None:
    traced.client.post(
        "/v1/recommendations?explain=true", json={"user_id": "u1"}, headers={"traceparent": CLIENT}
    )
    traced.client.get("/healthz")
    while not any(traced.log.end_offset(Topic.IMPRESSIONS, p) for p in range(4)):
        traced.services.outboxes.impressions.flush(1)
    traced.work()
    spans = traced.spans()
    request = spans["POST /v1/recommendations"]
    for name in ("stage user_features", "stage two_tower", "stage rank", "stage rerank", "redis user"):
        assert parent(spans[name]) == ids(request)[1], name
        assert ids(spans[name])[0] == TRACE
    rank, rerank = spans["stage rank"], spans["stage rerank"]
    assert request.start_time is not None
    assert rank.start_time is not None and rank.end_time is not None
    assert rerank.start_time is not None
    assert request.start_time <= rank.start_time < rank.end_time <= rerank.start_time
    assert ids(spans["apply impressions"])[0] == TRACE
    assert ids(spans["GET /healthz"])[0] != TRACE


def test_off_there_are_no_spans_and_no_headers(api: Api) -> None:
    api.client.post("/v1/events", json=api.event("item-003"), headers={"traceparent": CLIENT})
    api.logged(Topic.EVENTS)
    assert [taken.headers for taken in api.sink.taken] == [()]
    assert open_traces("", "x") is None
    script = "import serving.api.app, sys; assert 'recsys.observability.otel' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_console_exporter_writes_a_line_a_span(capsys: pytest.CaptureFixture[str]) -> None:
    traces = open_traces("console", "recsys-api")
    assert traces is not None
    request = traces.begin("GET /", CLIENT)
    request.child("stage rank").end(failed="too late", count_in=5)
    request.end(name="GET /healthz")
    traces.close()
    stage, root = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert root["name"] == "GET /healthz"
    assert stage["parent_id"] == root["context"]["span_id"]
    assert stage["status"]["status_code"] == "ERROR"
    assert stage["attributes"]["recsys.count_in"] == 5
    assert root["context"]["trace_id"] == f"0x{TRACE:032x}"


def test_unknown_exporters_and_broken_headers_are_harmless() -> None:
    with pytest.raises(InvalidConfig, match="console or otlp"):
        open_traces("jaeger", "x")
    assert parent_of([("traceparent", b"\xff"), ("other", b"")]) == "\ufffd"
    traces = open_traces("console", "x")
    assert traces is not None
    traces.begin("GET /", "nonsense").end()
    traces.close()


def test_a_spool_of_the_version_before_is_still_delivered(tmp_path: Path) -> None:
    sink = FlakySink(up=False)
    first = Outbox(tmp_path, sink, 1 << 20)
    first.put([("events", "u1", b"old")])  # type: ignore[list-item]
    first.close(0.1)
    heir_sink = FlakySink()
    heir = Outbox(tmp_path, heir_sink, 1 << 20)
    assert heir.flush(10)
    heir.close()
    assert heir_sink.taken == [Message("events", "u1", b"old")]
