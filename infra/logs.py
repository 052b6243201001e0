"""Logs of every process: one line an event on standard error, so that standard output is the answer alone."""

import logging
import sys

import structlog

from recsys.errors import InvalidConfig

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
    logging.basicConfig(level=number, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # kafka-python reports each attempt to connect as an error; streaming.log says it once, and raises.
    logging.getLogger("kafka").setLevel(logging.DEBUG if number <= logging.DEBUG else logging.CRITICAL)
