"""The audit log: who did what only admins may, one line each on standard error, whatever the log level is."""

import sys

import structlog
from starlette.requests import Request
from structlog.processors import JSONRenderer, TimeStamper

from serving.api.security import Caller
from serving.problems import request_id


def audit(request: Request, caller: Caller, action: str, **facts: object) -> None:
    """Write it before it is done: what fails has been tried."""
    out = structlog.PrintLogger(sys.stderr)
    log = structlog.wrap_logger(
        out, [TimeStamper(fmt="iso", utc=True), JSONRenderer()], structlog.BoundLogger
    )
    log.info("audit", action=action, key=caller.name, request_id=request_id(request), **facts)
