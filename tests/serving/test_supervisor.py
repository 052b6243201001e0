"""The supervisor: real forks in a process of its own, since a test process has threads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.local.process import pid_alive
from tests.serving.waiting import eventually

_RUNS = """
import os, select, signal, sys
from pathlib import Path
from recsys.contracts.errors import InvalidConfig
from serving.supervisor import Kind, Supervisor

folder = Path(sys.argv[1])

def work(name, pulse):
    (folder / f"{name}-{os.getpid()}").touch()
    pulse.beat()
    signal.signal(signal.SIGTERM, lambda *_: ((folder / f"{name}-stopped").touch(), os._exit(0)))
    select.select([pulse.orphaned], [], [])
    (folder / f"{name}-orphaned").touch()

def fail(pulse):
    raise RuntimeError("cannot start")

def refuse(pulse):
    raise InvalidConfig("set what is missing")

def hang(pulse):
    (folder / f"hung-{os.getpid()}").touch()
    pulse.beat()
    signal.pause()

kinds = {
    "steady": [Kind("a", 2, lambda pulse: work("a", pulse)), Kind("b", 1, lambda pulse: work("b", pulse))],
    "broken": [Kind("broken", 1, fail)],
    "refusing": [Kind("refusing", 1, refuse)],
    "hanging": [Kind("hanging", 1, hang)],
}[sys.argv[2]]
Supervisor(kinds, hung_s=0.5 if sys.argv[2] == "hanging" else 60.0).run()
"""


def _start(folder: Path, kinds: str = "steady") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _RUNS, str(folder), kinds],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _pids(folder: Path, name: str) -> set[int]:
    found = (path.name.partition("-")[2] for path in folder.glob(f"{name}-*"))
    return {int(pid) for pid in found if pid.isdecimal()}


def test_a_killed_process_is_replaced_and_sigterm_stops_all(tmp_path: Path) -> None:
    supervisor = _start(tmp_path)
    eventually(lambda: len(_pids(tmp_path, "a")) == 2 and len(_pids(tmp_path, "b")) == 1, 60)
    victim = min(_pids(tmp_path, "a"))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(_pids(tmp_path, "a")) == 3, 60)
    time.sleep(0.2)  # the newest sets its handler after its file
    supervisor.terminate()
    supervisor.communicate(timeout=60)
    assert supervisor.returncode == 0
    assert {path.name for path in tmp_path.glob("*-stopped")} == {"a-stopped", "b-stopped"}
    assert not any(map(pid_alive, _pids(tmp_path, "a") | _pids(tmp_path, "b")))


def test_children_learn_at_once_that_their_supervisor_was_killed(tmp_path: Path) -> None:
    supervisor = _start(tmp_path)
    eventually(lambda: len(_pids(tmp_path, "a")) == 2 and len(_pids(tmp_path, "b")) == 1, 60)
    supervisor.kill()
    eventually(lambda: (tmp_path / "a-orphaned").exists() and (tmp_path / "b-orphaned").exists(), 60)
    supervisor.communicate(timeout=60)


def test_what_cannot_start_at_all_ends_the_supervisor(tmp_path: Path) -> None:
    supervisor = _start(tmp_path, "broken")
    _, errors = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 1
    assert "cannot start" in errors
    assert "Unavailable: broken did not start" in errors


def test_a_refused_configuration_is_one_line_of_the_log(tmp_path: Path) -> None:
    supervisor = _start(tmp_path, "refusing")
    out, errors = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 1
    assert "set what is missing" in out + errors
    assert (out + errors).count("Traceback") == 1  # that of what the supervisor raises


def test_a_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    supervisor = _start(tmp_path, "hanging")
    eventually(lambda: len(_pids(tmp_path, "hung")) >= 2, 60)
    supervisor.terminate()
    supervisor.communicate(timeout=60)
    assert not any(map(pid_alive, _pids(tmp_path, "hung")))


def test_nothing_that_is_imported_before_a_fork_starts_a_thread() -> None:
    """A thread does not survive a fork, and a lock that it held stays locked. Arrow's jemalloc prepares for it."""
    code = """
from pathlib import Path
from serving.environment import of_several_processes

with of_several_processes():
    import serving.processes
    print(*(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len([name for name in found.stdout.split() if name != "jemalloc_bg_thd"]) == 1
