"""What the arms of running experiments have earned, for the page: from the lake, by a process of its own.

An API process sees its own lists and the events that were posted to it, and forgets both when it ends; the lake has
those of every process, each event once. It is behind by what the archiver waits before it writes
(`RECSYS_ARCHIVE_MAX_SECONDS`), and an answer by at most `_EVERY_S`, or longer where reading takes long.
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
_SHARE = 10.0  # reading takes at most a tenth of the time
_TIMEOUT_S = 120.0

Read = Callable[[Path, str], Growth]


def read_apart(lake: Path, experiment: str) -> Growth:
    """
    Raises:
        Unavailable: the lake cannot be read, or not in time.
    """
    command = [sys.executable, "-m", "recsys.experiments.growth_reader", str(lake), experiment]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, env=environ)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"the lake was not read in {_TIMEOUT_S:.0f} s; use `recsys ab report {experiment}`"
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"the lake cannot be read: {said[-1] if said else done.returncode}")
    try:
        return Growth.model_validate_json(done.stdout)
    except ValidationError as error:
        raise Unavailable(
            f"the outcomes are not as expected ({error.errors()[0]['msg']}); use `recsys ab report {experiment}`"
        ) from error


@dataclass(frozen=True)
class _Kept:
    """The latest answer, or why there is none."""

    answer: Growth | Unavailable
    at_s: float
    took_s: float


class ExperimentOutcomes:
    """Reads one experiment at a time and keeps the answers, failures too, for a while. Nobody waits for somebody else's
    reading: it would take the threads that other routes need. Thread-safe."""

    def __init__(
        self, lake: Path, read: Read = read_apart, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lake = lake
        self._read = read
        self._clock = clock
        self._reading = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def of(self, experiment: str) -> tuple[Growth, float]:
        """The latest answer and its age in seconds. Whoever comes while it is read anew gets the one before.

        Raises:
            Unavailable: the lake cannot be read, or it is being read and there is no answer yet.
        """
        if not self._fresh(experiment) and self._reading.acquire(blocking=False):
            try:
                if not self._fresh(experiment):  # somebody else may have read it just now
                    self._kept[experiment] = self._now(experiment)
            finally:
                self._reading.release()
        kept = self._kept.get(experiment)
        if kept is None:
            raise Unavailable("the lake is being read; ask again in a moment")
        if isinstance(kept.answer, Unavailable):
            raise Unavailable(str(kept.answer))
        return kept.answer, self._clock() - kept.at_s

    def _fresh(self, experiment: str) -> bool:
        kept = self._kept.get(experiment)
        return kept is not None and self._clock() - kept.at_s < max(_EVERY_S, _SHARE * kept.took_s)

    def _now(self, experiment: str) -> _Kept:
        began = self._clock()
        answer: Growth | Unavailable
        try:
            answer = self._read(self._lake, experiment)
        except Unavailable as error:
            answer = error
        return _Kept(answer, began, self._clock() - began)
