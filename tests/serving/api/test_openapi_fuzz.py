"""Requests made from the OpenAPI document, good and bad: the answers are what the document says, and never 5xx."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
from tests.serving.conftest import memory_services

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
