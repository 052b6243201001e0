"""The outermost layer: request ids, body limits, security headers, metrics, and no stack trace in answers.

Plain ASGI: a `BaseHTTPMiddleware` would cost more than the routes behind it.
"""

import re
import time
from collections.abc import Mapping

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.contracts.events import new_id
from recsys.observability.tracing import TRACEPARENT, Traces, current_span
from serving.problems import Problem, problem_response
from serving.telemetry import Telemetry

REQUEST_ID = b"x-request-id"
CLIENT_LEFT = 499  # as nginx counts it: the client closed the connection before it had an answer
_PLAIN_ID = re.compile(rb"[0-9A-Za-z][0-9A-Za-z._:-]{0,63}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"cache-control", b"no-store"),
]

_log = structlog.get_logger(__name__)


class Edge:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, max_body_bytes: int, traces: Traces | None = None
    ) -> None:
        """`traces`: a span for each request, `recsys.observability.tracing.current_span` while it is answered."""
        self._app = app
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, method = time.perf_counter(), scope["method"]
        headers = dict(scope["headers"])
        request_id = scope["request_id"] = _request_id(headers)
        span = None
        if self._traces is not None:
            span = self._traces.begin(method, headers.get(TRACEPARENT.encode(), b"").decode("latin-1"))
            current_span.set(span)  # in the context of this request's task
        status = received = 0
        left = False  # the client has gone away; what fails because of that is no fault of ours

        async def bounded() -> Message:
            """`receive` that stops a body without Content-Length when it becomes too long."""
            nonlocal received, left
            message = await receive()
            left = left or (message["type"] == "http.disconnect" and not status)
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise _too_long(self._max_body_bytes)
            return message

        async def send_unless_too_long(message: Message) -> None:
            """Drop the app's answer to a cut body: FastAPI would say that it cannot be parsed."""
            if status or received <= self._max_body_bytes:
                await send_with_headers(message)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = CLIENT_LEFT if left else message["status"]
                sent = message.setdefault("headers", [])
                present = {name for name, _ in sent}
                sent += [h for h in _SECURITY_HEADERS if h[0] not in present]
                sent.append((REQUEST_ID, request_id.encode()))
            await send(message)

        self._telemetry.in_flight.inc()
        try:
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self._max_body_bytes:
                raise _too_long(self._max_body_bytes)
            await self._app(scope, bounded, send_unless_too_long)
            if received > self._max_body_bytes and not status:
                raise _too_long(self._max_body_bytes)
        except Problem as problem:
            await problem_response(Request(scope), problem)(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = status or CLIENT_LEFT
        except Exception:
            _log.exception(
                "request failed", request_id=request_id, route=_route(scope)
            )  # a path may name a user
            if status:  # too late for an answer: the connection ends
                raise
            failure = Problem(500, "unexpected error; report it with the request id")
            await problem_response(Request(scope), failure)(scope, receive, send_with_headers)
        finally:
            self._telemetry.in_flight.dec()
            route = _route(scope)
            if span is not None:
                failed = f"status {status}" if status >= 500 else ""
                span.end(name=f"{method} {route}", failed=failed, status=status, request_id=request_id)
            self._telemetry.request(route, method, status, time.perf_counter() - began)


def _route(scope: Scope) -> str:
    """As the document names it, without the ids in the path."""
    return getattr(scope.get("route"), "path", "other")


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """The client's, when it is harmless; else a new one."""
    given = headers.get(REQUEST_ID, b"")
    return str(given, "ascii") if _PLAIN_ID.fullmatch(given) else new_id()


def _too_long(limit: int) -> Problem:
    return Problem(413, f"the body is longer than {limit} bytes; split it into several requests")
