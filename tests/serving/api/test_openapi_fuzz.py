"""Requests made from the OpenAPI document, good, bad and cut off: the answers are what the document says, never 5xx."""

import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.settings import ServingSettings
from tests.bundles import write_tiny_bundle
from tests.serving.api.test_connections import read_all, serving
from tests.serving.conftest import memory_services
from tests.serving.waiting import eventually

pytestmark = pytest.mark.slow


HOME = Path(tempfile.gettempdir()) / f"recsys-fuzz-{os.getpid()}"
app = create_app(ServingSettings(home=HOME, deadline_ms=20_000), memory_services)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    write_tiny_bundle(HOME / "bundles", "v1")
    with TestClient(app):
        yield
    shutil.rmtree(HOME)


@schema.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case: schemathesis.Case[Any]) -> None:
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    case.call_and_validate(checks=checks)


@pytest.fixture(scope="module")
def port(running: None) -> Iterator[int]:
    """The same app behind a real socket."""
    with serving(application=app) as listening:
        yield listening.port
        telemetry = app.state.telemetry
        eventually(lambda: b"recsys_http_in_flight 0.0" in telemetry.exposition())
        assert b'status="5' not in telemetry.exposition()


@schema.parametrize()
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_request_that_is_cut_off_anywhere_is_no_failure(port: int, case: schemathesis.Case[Any]) -> None:
    """Some byte of it is the last one that comes: the process answers others, and none counts as 5xx."""
    sent: Any = requests.Request(**case.as_transport_kwargs(base_url="http://x")).prepare()
    content = sent.body.encode() if isinstance(sent.body, str) else sent.body or b""
    lines = [
        f"{sent.method} {sent.path_url} HTTP/1.1",
        *(f"{name}: {value}" for name, value in sent.headers.items()),
    ]
    request = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + content
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request[: zlib.crc32(request) % len(request)])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in read_all(connection)
