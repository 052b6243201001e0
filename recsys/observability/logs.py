"""Logs of every process: one JSON object a line, or plain lines on a terminal. Tracebacks have no local variables, and
no line has a secret.
"""

import logging
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from recsys.contracts.errors import InvalidConfig

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_HIDDEN = "***"
_LEAST_LENGTH = 6  # a shorter word may be part of any line
# credentials in a URL, up to the last @ of its authority; an API key of `serving.api.security`
_SHAPES = re.compile(r"(?<=://)[^/\s\"']*(?=@)|\brk_[a-z0-9-]{1,32}_[A-Za-z0-9_-]{43}")
_known: set[str] = set()


def hide(*secrets: str) -> None:
    """Leave these words out of every log line from now on, wherever a library quotes them."""
    _known.update(secret for secret in secrets if len(secret) >= _LEAST_LENGTH)


def hide_password_of(url: str) -> None:
    """`hide` the password of a URL, as it is written there and as it is sent."""
    password = urlsplit(url).password or ""
    hide(password, unquote(password))


def redact(text: str) -> str:
    """The text without credentials of URLs, API keys and what was hidden.

    >>> redact("cannot reach redis://app:hunter2@cache:6379/0")
    'cannot reach redis://***@cache:6379/0'
    """
    for secret in _known:
        text = text.replace(secret, _HIDDEN)
    return _SHAPES.sub(_HIDDEN, text)


def plain_trace(error: BaseException) -> str:
    """Its traceback without local variables or secrets."""
    return redact("".join(traceback.format_exception(error)))


def configure_logs(level: str) -> None:
    """Send the lines of structlog and of libraries to standard error.

    Args:
        level: debug, info, warning or error. Libraries log from warning on; when it is debug, from info on: what they
            say below that quotes whole records, and with them the ids of users.

    Raises:
        InvalidConfig: an unknown level.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise InvalidConfig(f"RECSYS_LOG_LEVEL={level}: choose one of {', '.join(_LEVELS)}")
    named: Sequence[Processor] = (structlog.stdlib.add_log_level, TimeStamper(fmt="iso", utc=True))
    rendered: Sequence[Processor] = (*_renderers(sys.stderr.isatty()), _redacted)
    structlog.configure(
        processors=[*named, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            processors=[ProcessorFormatter.remove_processors_meta, *rendered],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *named],
        )
    )
    debug = number == logging.DEBUG
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler], force=True)
    # kafka-python logs each failed connection attempt as an error, although `streaming.log` reports or raises it
    logging.getLogger("kafka").setLevel(logging.INFO if debug else logging.CRITICAL)


def _renderers(terminal: bool) -> Sequence[Processor]:
    if terminal:
        return (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
    return (format_exc_info, JSONRenderer(default=str))


def _redacted(_logger: Any, _method: str, line: str | bytes | EventDict) -> str:
    return redact(str(line))
