"""A client that goes away before it has an answer is counted as 499: no failure of ours, and nothing in the log."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from starlette.types import Message

from tests.serving.conftest import Api

HALF = {"type": "http.request", "body": b'{"user_id": "u1', "more_body": True}
GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("path", "type_"),
    [("/v1/recommendations", b"application/json"), ("/v1/events", b""), ("/v1/items", b"application/json")],
)
@pytest.mark.parametrize("received", [[GONE], [HALF, GONE]])
def test_an_aborted_upload_is_no_5xx(api: Api, path: str, type_: bytes, received: list[Message]) -> None:
    messages: Iterator[Message] = iter(received)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages, GONE)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        **{"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""},
        **{"headers": [(b"content-type", type_)], "server": ("x", 1), "client": ("y", 1), "scheme": "http"},
        **{"http_version": "1.1", "root_path": "", "state": {}, "asgi": {"version": "3.0"}},
    }
    with structlog.testing.capture_logs() as logged:
        asyncio.run(api.client.app(scope, receive, send))  # type: ignore[arg-type]
    assert logged == []
    metrics = api.services.telemetry.exposition().decode()
    assert f'recsys_http_requests_total{{method="POST",route="{path}",status="499"}} 1.0' in metrics
    assert 'status="5' not in metrics
    assert "recsys_http_in_flight 0.0" in metrics
