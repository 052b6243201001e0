"""The outermost layer: request ids, body limits, security headers, counting, and no stack trace outside.

Plain ASGI: a `BaseHTTPMiddleware` would cost more than the routes behind it.
"""

import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.contracts.events import new_id
from recsys.observability.tracing import TRACEPARENT, Traces, current_span
from serving.problems import MEDIA_TYPE, Problem, problem_body
from serving.telemetry import Telemetry

REQUEST_ID = b"x-request-id"
_PLAIN_ID = re.compile(rb"[0-9A-Za-z._:-]{1,64}")
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
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        span = None
        if self._traces is not None:
            span = self._traces.begin(scope["method"], _traceparent(scope))
            current_span.set(span)  # of this request's task; the server starts a new one for the next
        status = received = 0

        async def bounded() -> Message:
            """`receive` that stops a body without Content-Length when it grows too long."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise _too_long(self._max_body_bytes)
            return message

        async def send_unless_too_long(message: Message) -> None:
            """Not what the app says of a body that it did not get: FastAPI calls it one that cannot be parsed."""
            if status or received <= self._max_body_bytes:
                await send_with_headers(message)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                present = {name for name, _ in headers}
                headers += [h for h in _SECURITY_HEADERS if h[0] not in present]
                headers.append((REQUEST_ID, request_id.encode()))
            await send(message)

        self._telemetry.in_flight.inc()
        try:
            _refuse_long(scope, self._max_body_bytes)
            await self._app(scope, bounded, send_unless_too_long)
            if received > self._max_body_bytes and not status:
                raise _too_long(self._max_body_bytes)
        except Problem as problem:
            await _send_problem(problem, request_id, send_with_headers)
        except Exception:
            _log.exception("request failed", request_id=request_id, path=scope["path"])
            if status:  # too late to say anything: the connection ends
                raise
            await _send_problem(
                Problem(500, "unexpected error; report it with the request id"), request_id, send_with_headers
            )
        finally:
            self._telemetry.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            if span is not None:
                failed = f"status {status}" if status >= 500 else ""
                span.end(
                    name=f"{scope['method']} {route}", failed=failed, status=status, request_id=request_id
                )
            self._telemetry.request(route, scope["method"], status, time.perf_counter() - began)


def _request_id(scope: Scope) -> str:
    """The client's, when it is harmless; else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _PLAIN_ID.fullmatch(value):
            return str(value, "ascii")
    return new_id()


def _traceparent(scope: Scope) -> str:
    """Of the client's span, when it has one."""
    for name, value in scope["headers"]:
        if name == TRACEPARENT.encode():
            return str(value, "latin-1")
    return ""


def _refuse_long(scope: Scope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_long(limit)


def _too_long(limit: int) -> Problem:
    return Problem(413, f"the body is longer than {limit} bytes; split it into several requests")


async def _send_problem(problem: Problem, request_id: str, send: Send) -> None:
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    body = problem_body(problem.status, problem.detail, request_id)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
