"""What the environment says to libraries, before they are imported."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def of_several_processes() -> Iterator[None]:
    """They write their metrics to files in one folder, so each can show the sum; and requests share the cores."""
    folder = tempfile.mkdtemp(prefix="recsys-metrics-")
    os.environ[MULTIPROCESS_DIR] = folder
    for library in _ONE_THREAD:
        os.environ.setdefault(library, "1")
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ[MULTIPROCESS_DIR]
