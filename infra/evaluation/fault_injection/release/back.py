"""How long after a rollback is decided no process shows the candidate: real processes that follow the real file."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recsys.experiments.assignment import Assigner
from recsys.experiments.release import CANARY, Release, experiment_of
from recsys.experiments.release_file import write_release

PROCESSES = 3
_TIMEOUT_S = 60.0
# assigns as a request does, and says when the user first has the canary and when no longer
_FOLLOW = """
import sys, time
from pathlib import Path
from serving.engine.experiments import Experiments
from serving.engine.pipeline_builder import PathConfig
experiments, user = Experiments(None, PathConfig(), Path(sys.argv[1])), sys.argv[2]
while not experiments.of(user).bundle: time.sleep(0.01)
print("canary", flush=True)
while experiments.of(user).bundle: time.sleep(0.01)
print(time.time(), flush=True)
"""


def seconds_back(state: Path, canary: Release, roll_back: Callable[[], object]) -> list[float]:
    """Seconds until each process is back. `canary`: the state with some users exposed; `roll_back` decides."""
    write_release(state.parent, canary)
    experiment = experiment_of(canary)
    assert experiment is not None  # noqa: S101 - the state exposes users
    assigner = Assigner([experiment])
    user = next(u for u in map(str, range(1_000_000)) if assigner.assign(u)[0].arm.name == CANARY)
    command = [sys.executable, "-c", _FOLLOW, str(state), user]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    try:
        for child in children:
            assert child.stdout is not None  # noqa: S101
            child.stdout.readline()
        began = time.time()
        roll_back()
        return [float(child.communicate(timeout=_TIMEOUT_S)[0]) - began for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
