"""Where log lines go: to standard error, so that standard output holds results only; in batch jobs to a file."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from recsys.contracts.errors import InvalidConfig, RecsysError

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class JobFailed(RecsysError):
    """A batch job failed unexpectedly; the message names its log file."""


def configure_logs(level: str) -> None:
    """`level`: debug, info, warning or error.

    Raises:
        InvalidConfig: an unknown level.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise InvalidConfig(f"RECSYS_LOG_LEVEL={level}: choose one of {', '.join(_LEVELS)}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log from level warning on. kafka-python logs each failed connection attempt as an error, although
    # `streaming.log` reports or raises it.
    debug = number == logging.DEBUG
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("kafka").setLevel(logging.DEBUG if debug else logging.CRITICAL)


def own_stderr() -> None:
    """Give `sys.stderr` a file descriptor of its own, so that `job_log` can redirect descriptor 2 without it."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)


@contextmanager
def job_log(path: Path) -> Iterator[None]:
    """Append to a file what libraries print during a batch job: warnings, logs, the output of Spark's JVM.

    Only descriptor 2 is redirected; the command's own progress goes through `sys.stderr` (see `own_stderr`).

    Raises:
        JobFailed: the job failed unexpectedly; the file has the traceback.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root, stderr = logging.getLogger(), os.dup(2)
    handlers = root.handlers[:]
    with path.open("a", encoding="utf-8", buffering=1) as log:
        root.handlers = [logging.StreamHandler(log)]
        logging.captureWarnings(True)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except RecsysError:
            raise
        except Exception as error:
            traceback.print_exc(file=log)
            reason = next(iter(str(error).splitlines()), "")
            raise JobFailed(f"{type(error).__name__}: {reason}; the details are in {path}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            logging.captureWarnings(False)
            root.handlers = handlers
