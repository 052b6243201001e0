"""Standard error of a command: its own lines and logs; in batch jobs, what libraries print goes to a file."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.contracts.errors import RecsysError
from recsys.observability.logs import plain_trace


class JobFailed(RecsysError):
    """A batch job failed unexpectedly; the message names its log file."""


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
            log.write(plain_trace(error))
            reason = next(iter(str(error).splitlines()), "")
            raise JobFailed(f"{type(error).__name__}: {reason}; the details are in {path}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            logging.captureWarnings(False)
            root.handlers = handlers
