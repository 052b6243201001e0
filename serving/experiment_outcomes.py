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

from recsys.errors import Unavailable
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
    return Growth.model_validate_json(done.stdout)


@dataclass(frozen=True)
class _Kept:
    growth: Growth
    at_s: float
    took_s: float


class ExperimentOutcomes:
    """Reads one experiment at a time and keeps the answers for a while. Thread-safe."""

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
            Unavailable: the lake cannot be read.
        """
        kept = self._kept.get(experiment)
        if kept is None or not (self._fresh(kept) or self._reading.locked()):
            with self._reading:
                kept = self._kept.get(experiment)  # somebody else may have read it while this one waited
                if kept is None or not self._fresh(kept):
                    kept = self._kept[experiment] = self._now(experiment)
        return kept.growth, self._clock() - kept.at_s

    def _fresh(self, kept: _Kept) -> bool:
        return self._clock() - kept.at_s < max(_EVERY_S, _SHARE * kept.took_s)

    def _now(self, experiment: str) -> _Kept:
        began = self._clock()
        growth = self._read(self._lake, experiment)
        return _Kept(growth, began, self._clock() - began)
