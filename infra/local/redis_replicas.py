"""Redis servers that replicate, for tests of failover: a cluster of masters, and a master that a Sentinel watches.

All are processes of this machine on free ports. Replicas log in as a user of their own, whom `cut` locks out: what is
written from then on is lost when the master dies, as asynchronous replication may lose the last writes.
"""

import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from infra.local.process import free_port
from infra.local.redis import RedisServer, server_binary
from recsys.contracts.errors import Unavailable

SERVICE = "recsys"
_SLOTS = 16_384
_REPLICA = "replica"
_OPTIONS = (
    *("--user", _REPLICA, "on", f">{_REPLICA}", "+psync", "+replconf", "+ping"),
    *("--masteruser", _REPLICA, "--masterauth", _REPLICA, "--repl-diskless-sync-delay", "0"),
)
_TIMEOUT_S = 60.0


class Failover(StrEnum):
    """What promotes a replica."""

    CLUSTER = "cluster"
    SENTINEL = "sentinel"

    def servers(self) -> "ReplicatedRedis":
        return LocalRedisCluster(replicas=1) if self is Failover.CLUSTER else LocalRedisSentinel()


class ReplicatedRedis(ABC):
    """A context manager."""

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self.home = Path(tempfile.mkdtemp(prefix="recsys-replicated-"))
            opening.callback(shutil.rmtree, self.home, ignore_errors=True)
            self.servers: list[RedisServer] = []
            self._start(opening)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def master_of(self, key: str) -> RedisServer:
        """The server that takes writes of the key."""

    @abstractmethod
    def fail_over(self, master: RedisServer) -> None:
        """kill -9, and wait until a replica has its place."""

    def rejoin(self, killed: RedisServer) -> None:
        """Start a master that was failed over, and wait until it is a replica of its successor."""
        killed.start()
        _wait(lambda: _is_linked(killed), "rejoining")

    def cut(self, master: RedisServer) -> None:
        """From now on, the master's writes reach no replica."""
        _ask(master, "ACL SETUSER", _REPLICA, "off")
        _ask(master, "CLIENT KILL", "TYPE", "replica")

    @abstractmethod
    def _start(self, opening: ExitStack) -> None: ...

    def _server(self, opening: ExitStack, *options: str) -> RedisServer:
        home = self.home / str(len(self.servers))
        server = opening.enter_context(RedisServer(home, databases=1, options=(*_OPTIONS, *options)))
        self.servers.append(server)
        return server


class LocalRedisCluster(ReplicatedRedis):
    """Masters that share the slots evenly, each with as many replicas."""

    def __init__(self, masters: int = 3, replicas: int = 0) -> None:
        self._masters, self._replicas = masters, replicas

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def master_of(self, key: str) -> RedisServer:
        living = self._living()[0]
        slot = _ask(living, "CLUSTER KEYSLOT", key)
        return next(self._at(port) for first, last, port in _slots(living) if first <= slot <= last)

    def fail_over(self, master: RedisServer) -> None:
        master.kill()
        _wait(lambda: all(_is_well_without(server, master) for server in self._living()), "failover")

    def _start(self, opening: ExitStack) -> None:
        for _ in range(self._masters * (1 + self._replicas)):
            self._server(
                opening,
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
                *("--cluster-replica-validity-factor", "0"),  # also one that was cut off long ago
                *("--cluster-port", str(free_port())),
            )
        masters, replicas = self.servers[: self._masters], self.servers[self._masters :]
        for number, master in enumerate(masters):
            first, end = (_SLOTS * n // self._masters for n in (number, number + 1))
            _ask(master, "CLUSTER ADDSLOTSRANGE", str(first), str(end - 1))
        for number, server in enumerate(self.servers):
            _ask(server, "CLUSTER SET-CONFIG-EPOCH", str(number + 1))
            _ask(masters[0], "CLUSTER MEET", "127.0.0.1", str(server.port), server.options[-1])
        _wait(lambda: all(self._is_whole(server) for server in self.servers), "cluster")
        for number, replica in enumerate(replicas):
            _ask(replica, "CLUSTER REPLICATE", _ask(masters[number % self._masters], "CLUSTER MYID").decode())
        _wait(lambda: all(_is_linked(replica) for replica in replicas), "cluster's replicas")

    def _is_whole(self, server: RedisServer) -> bool:
        info = _lines(_ask(server, "CLUSTER INFO"))
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(self.servers)

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)

    def _living(self) -> list[RedisServer]:
        return [server for server in self.servers if server.ready()]


class LocalRedisSentinel(ReplicatedRedis):
    """A master, its replica, and a Sentinel that promotes it."""

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/{SERVICE}/0"

    def master_of(self, key: str) -> RedisServer:
        _, port = _ask(self._sentinel, "SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self, master: RedisServer) -> None:
        master.kill()
        _wait(lambda: _role(self.master_of("")) == b"master", "failover")

    def _start(self, opening: ExitStack) -> None:
        master = self._server(opening)
        replica = self._server(opening, "--replicaof", "127.0.0.1", str(master.port))
        _wait(lambda: _is_linked(replica), "replica")
        self._sentinel = opening.enter_context(_Sentinel(self.home / "sentinel", master.port))
        _wait(self._knows_the_replica, "Sentinel")

    def _knows_the_replica(self) -> bool:
        fields = [dict(zip(r[::2], r[1::2], strict=True)) for r in self._replicas()]
        return [found[b"master-link-status"] for found in fields] == [b"ok"]

    def _replicas(self) -> Sequence[Sequence[bytes]]:
        found: Sequence[Sequence[bytes]] = _ask(self._sentinel, "SENTINEL REPLICAS", SERVICE)
        return found


class _Sentinel(RedisServer):
    name = "sentinel"

    def __init__(self, data: Path, master: int) -> None:
        super().__init__(data)
        data.mkdir()
        self._file = data / "sentinel.conf"  # which it rewrites
        self._file.write_text(
            f"bind 127.0.0.1\nport {self.port}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 1\n"
            # it promotes a replica that was cut off for less than ten times as long
            f"sentinel down-after-milliseconds {SERVICE} 2000\n",
            encoding="utf-8",
        )

    def command(self) -> list[str | Path]:
        return [server_binary(), self._file, "--sentinel"]


def _ask(server: RedisServer, command: str, *arguments: str) -> Any:
    """The reply as it is sent."""
    with server.admin() as client:
        return client.execute_command(*command.split(), *arguments)


def _role(server: RedisServer) -> bytes:
    try:
        found: bytes = _ask(server, "ROLE")[0]
    except redis.RedisError:  # killed just now
        return b""
    return found


def _slots(server: RedisServer) -> list[tuple[int, int, int]]:
    """First slot, last slot, and port of their master."""
    return [(first, last, master[1]) for first, last, master, *_ in _ask(server, "CLUSTER SLOTS")]


def _is_well_without(server: RedisServer, gone: RedisServer) -> bool:
    state = _lines(_ask(server, "CLUSTER INFO"))["cluster_state"]
    return state == "ok" and gone.port not in {port for _, _, port in _slots(server)}


def _is_linked(replica: RedisServer) -> bool:
    try:
        with replica.admin() as client:
            return bool(client.info("replication").get("master_link_status") == "up")
    except redis.RedisError:  # loading, or just told to replicate
        return False


def _lines(text: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.decode().split("\r\n") if ":" in line)


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"no {what} within {_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
