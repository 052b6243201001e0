"""`recsys` child processes of a command. They end with it, the last one started first."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local.process import ChildProcess
from recsys.contracts.errors import Unavailable


class Children:
    """A context manager that owns `recsys` processes. `environ` is added to this process's environment."""

    def __init__(self, logs: Path, environ: Mapping[str, str]) -> None:
        self._logs = logs
        self.environ = {**os.environ, **environ}
        self._children: dict[str, ChildProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._children)):
            self.stop(name)

    def run(self, *arguments: str) -> None:
        """Run a command to its end; its progress goes to the terminal.

        Raises:
            Unavailable: it failed and has printed why.
        """
        done = subprocess.run(
            recsys_command(*arguments), env=self.environ, stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise Unavailable(f"`recsys {' '.join(arguments)}` ended with code {done.returncode}, see above")

    def start(self, name: str, *arguments: str) -> ChildProcess:
        """Start a command alongside; its output goes to `<logs>/<name>.log`."""
        child = ChildProcess(recsys_command(*arguments), log=self._logs / f"{name}.log", environ=self.environ)
        self._children[name] = child
        return child

    def wait(self, name: str, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for `ready()`; raises `Unavailable` with the end of the log when the process ends first."""
        self._children[name].wait_until(ready, timeout_s)

    def finish(self, name: str, timeout_s: float) -> None:
        """Wait for the end of a command. Raises `Unavailable`: it failed, or did not end in time."""
        self._children.pop(name).finish(timeout_s)

    def kill(self, name: str) -> None:
        """kill -9, as a crash would."""
        self._children.pop(name).kill()

    def stop(self, name: str) -> None:
        self._children.pop(name).stop()


def recsys_command(*arguments: str) -> list[str]:
    """The command line of this installation, independent of the PATH."""
    return [sys.executable, "-m", "infra.cli.main", *arguments]
