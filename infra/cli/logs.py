"""Logs of every process: one line an event on standard error, so that standard output is the answer alone."""

import logging
import sys

import structlog

from recsys.contracts.errors import InvalidConfig

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(level: str) -> None:
    """`level`: debug, info, warning or error.

    Raises:
        InvalidConfig: another one.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise InvalidConfig(f"RECSYS_LOG_LEVEL={level}: choose one of {', '.join(_LEVELS)}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    debug = number == logging.DEBUG
    # Libraries speak up from warnings on; kafka-python calls each attempt to connect an error, where
    # `streaming.log` says it once, or raises.
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("kafka").setLevel(logging.DEBUG if debug else logging.CRITICAL)
