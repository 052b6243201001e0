"""Errors as clients see them: RFC 9457 `application/problem+json`, with the request id, never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus

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
    InvalidFilter,
    RecsysError,
    StageFailed,
    Unavailable,
)

_log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Problem(Exception):
    """An answer other than success. `detail` says what to do and is shown to the client."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))


def problem_response(request: Request, problem: Problem) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id(request),
    }
    return Response(orjson.dumps(body), problem.status, problem.headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """How an error that the API raises on purpose is told to the client."""
    match error:
        case Problem():
            return error
        case HTTPException():
            return Problem(error.status_code, str(error.detail), error.headers)
        case RequestValidationError():
            first = error.errors()[0]
            return Problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        case StageFailed():  # the reason is internal: for the log, not for the client
            _log.error("a required stage failed", stage=error.stage, error=str(error))
            return Problem(503, f"the required stage {error.stage!r} failed; report it with the request id")
        case InvalidEvent() | InvalidFilter() | InvalidData() | InvalidBundle() | FingerprintMismatch():
            return Problem(422, str(error))
        case Unavailable():
            return Problem(503, str(error))
    return Problem(500, str(error))


def request_id(request: Request) -> str:
    """The id that `serving.api.middleware` gave to this request."""
    return str(request.scope.get("request_id", ""))


def install(app: FastAPI) -> None:
    """Make every error of the app leave as problem+json."""

    async def on_error(request: Request, error: Exception) -> Response:
        return problem_response(request, problem_of(error))

    for kind in (Problem, HTTPException, RequestValidationError, RecsysError):
        app.add_exception_handler(kind, on_error)
