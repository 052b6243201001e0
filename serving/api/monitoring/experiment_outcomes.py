"""Outcomes of the arms of running experiments, read from the lake by a child process.

An API process knows only its own lists and events, and only until it ends; the lake has those of every process, each
event once. It lags by the archiver's wait (`RECSYS_ARCHIVE_MAX_SECONDS`), and an answer by `_EVERY_S` or more.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from recsys.contracts.errors import Unavailable
from recsys.experiments.growth import Growth

_EVERY_S = 10.0
_SHARE = 10.0  # reading takes at most one tenth of the time
_TIMEOUT_S = 120.0

Read = Callable[[Path, str], Growth]


def read_in_child(lake: Path, experiment: str) -> Growth:
    """Raises `Unavailable`: the lake cannot be read, or not in time."""
    command = [sys.executable, "-m", "recsys.experiments.growth_reader", str(lake), experiment]
    instead = f"use `recsys ab report {experiment}`"
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, env=environ)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the lake was not read in {_TIMEOUT_S:.0f} s; {instead}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"the lake cannot be read: {said[-1] if said else done.returncode}")
    try:
        return Growth.model_validate_json(done.stdout)
    except ValidationError as error:
        raise Unavailable(
            f"the outcomes are not as expected ({error.errors()[0]['msg']}); {instead}"
        ) from error


@dataclass(frozen=True)
class _Cached:
    """The latest answer, or why there is none."""

    answer: Growth | Unavailable
    at_s: float
    took_s: float


class ExperimentOutcomes:
    """Reads one experiment at a time and caches the answers, failures too. No request waits for another one's read:
    that would take threads from other routes. Thread-safe."""

    def __init__(
        self, lake: Path, read: Read = read_in_child, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lake = lake
        self._read = read
        self._clock = clock
        self._reading = threading.Lock()
        self._cached: dict[str, _Cached] = {}

    def of(self, experiment: str) -> tuple[Growth, float]:
        """The latest answer and its age in seconds; during a read, the previous one.
        Raises `Unavailable`: the lake cannot be read, or it is being read and there is no answer yet."""
        if not self._fresh(experiment) and self._reading.acquire(blocking=False):
            try:
                if not self._fresh(experiment):  # another request may just have read it
                    self._cached[experiment] = self._read_now(experiment)
            finally:
                self._reading.release()
        cached = self._cached.get(experiment)
        if cached is None:
            raise Unavailable("the lake is being read; ask again in a moment")
        if isinstance(cached.answer, Unavailable):
            raise Unavailable(str(cached.answer))
        return cached.answer, self._clock() - cached.at_s

    def _fresh(self, experiment: str) -> bool:
        cached = self._cached.get(experiment)
        return cached is not None and self._clock() - cached.at_s < max(_EVERY_S, _SHARE * cached.took_s)

    def _read_now(self, experiment: str) -> _Cached:
        began = self._clock()
        answer: Growth | Unavailable
        try:
            answer = self._read(self._lake, experiment)
        except Unavailable as error:
            answer = error
        return _Cached(answer, began, self._clock() - began)
