"""Child processes with a readiness check that never outlive their parent."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recsys.contracts.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildProcess:
    """A child in its own process group, so that Ctrl-C reaches only the parent, which stops its children in order.

    Output is appended to `log`. On Linux, the kernel kills the child when the thread that started it ends: start
    children from the main thread.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` replaces the parent's whole environment."""
        self.log = log
        self._asked = False
        self._name = Path(command[0]).name
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environ,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for `ready()`.

        Raises:
            Unavailable: the process ended or was not ready in time; the message has the end of its output.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive:
                raise Unavailable(f"{self._name} ended with {self._process.returncode}: {self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise Unavailable(f"{self._name} was not ready in {timeout_s:.0f} s: {self.log_tail()}")
            time.sleep(0.02)

    def finish(self, timeout_s: float) -> None:
        """Wait for the end.

        Raises:
            Unavailable: it failed, or did not end in time; the message has the end of its output.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Unavailable(f"{self._name} did not end in {timeout_s:.0f} s: {self.log_tail()}") from None
        if code:
            raise Unavailable(f"{self._name} ended with {code}: {self.log_tail()}")

    def ask_to_stop(self) -> None:
        """SIGTERM, once; `stop` then waits for the end."""
        if self.alive and not self._asked:
            self._asked = True
            self._process.terminate()

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after the timeout."""
        if self.alive:
            self.ask_to_stop()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL the whole process group, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def log_tail(self, lines: int = 5) -> str:
        """The end of the output, on one line."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.splitlines()[-lines:]) or "no output"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pid_alive(pid: int) -> bool:
    """True if a process with this id runs; zombies do not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
    except OSError:
        return True  # no /proc: not Linux
    return state.split()[0] != "Z"


def _die_with_parent(parent: int) -> Callable[[], None]:
    def in_child() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the parent died between fork and prctl
                os._exit(1)

    return in_child
