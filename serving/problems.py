"""Errors as the client sees them: RFC 9457 `application/problem+json`, with the request id, never a stack trace."""

from collections.abc import Mapping

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recsys.contracts.errors import (
    FingerprintMismatch,
    InvalidBundle,
    InvalidData,
    InvalidEvent,
    RecsysError,
    StageFailed,
    Unavailable,
)

_log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    413: "Content too large",
    422: "Not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}
_STATUS: Mapping[type[RecsysError], int] = {
    InvalidEvent: 422,
    InvalidData: 422,
    InvalidBundle: 422,
    FingerprintMismatch: 422,
    StageFailed: 503,
    Unavailable: 503,
}


class Problem(Exception):
    """An answer other than success. `detail` says what to do; it is shown to the client."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))


def problem_body(status: int, detail: str, request_id: str) -> bytes:
    return orjson.dumps(
        {
            "type": "about:blank",
            "title": _TITLES.get(status, "Error"),
            "status": status,
            "detail": detail,
            "request_id": request_id,
        }
    )


def problem_response(request: Request, problem: Problem) -> Response:
    body = problem_body(problem.status, problem.detail, request_id(request))
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """How an error on purpose is told to the client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StageFailed):  # its reason is of the code's inside: for the log, not for the client
        _log.error("a required stage failed", stage=error.stage, error=str(error))
        return Problem(503, f"the required stage {error.stage!r} failed; report it with the request id")
    return Problem(next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500), str(error))


def request_id(request: Request) -> str:
    """The id that `serving.api.middleware` gave to this request."""
    return str(request.scope.get("request_id", ""))


def install(app: FastAPI) -> None:
    """Every error of the app leaves as problem+json."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101 - registered for this type only
        return problem_response(request, error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return problem_response(request, Problem(error.status_code, str(error.detail), error.headers))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_response(request, Problem(422, f"{where}: {first['msg']}"))

    async def on_expected(request: Request, error: Exception) -> Response:
        return problem_response(request, problem_of(error))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(RecsysError, on_expected)
