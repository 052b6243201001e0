"""An embedded server process with a data folder and a fixed port."""

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local.process import ChildProcess, free_port
from recsys.contracts.errors import Unavailable


class EmbeddedServer(ABC):
    """A context manager. After `stop` or `kill`, `start` uses the same port and data folder.

    Without `data`, the folder is temporary and `close` removes it.
    """

    name: str
    start_timeout_s = 30.0

    def __init__(self, data: Path | None, port: int) -> None:
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix=f"recsys-{self.name}-"))
        self.port = port or free_port()
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise Unavailable(f"the embedded {self.name} server is not started")
        return self._child.pid

    @abstractmethod
    def command(self) -> list[str | Path]:
        """The server's command line; its working directory is the data folder."""

    @abstractmethod
    def ready(self) -> bool:
        """True once the server answers."""

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._child = ChildProcess(self.command(), self.data / f"{self.name}.log", cwd=self.data)

    def wait(self) -> None:
        """Raises `Unavailable`: the server, which was launched, ended or does not answer in time."""
        if self._child is not None:
            self._child.wait_until(self.ready, self.start_timeout_s)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """kill -9, as a crash would."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        self.stop()
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
