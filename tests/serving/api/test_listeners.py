"""Sockets of one process and of several: who gets a port, and which process gets a connection."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from recsys.contracts.errors import Unavailable
from serving.api.listeners import OpenListener, listening
from serving.settings import ServingSettings

CONNECTIONS = 64
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes share one socket")


@contextmanager
def _listening(
    workers: int = 2, port: int = 0, host: str = "127.0.0.1"
) -> Iterator[tuple[OpenListener, int]]:
    announced: list[str] = []
    settings = ServingSettings(host=host, port=port, workers=workers)
    with listening(settings, announced.append) as open_listener:
        yield open_listener, int(announced[0].rpartition(":")[2])


def _accepted(listener: socket.socket) -> int:
    """Number of connections that wait to be accepted."""
    listener.setblocking(False)
    found = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return found
        found += 1


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_spreads_connections_over_the_processes(host: str) -> None:
    with _listening(host=host) as (open_listener, port), ExitStack() as stack:
        listeners = [stack.enter_context(open_listener()) for _ in range(2)]
        for listener in listeners:
            listener.listen()
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection((host, port)))
        counts = [_accepted(listener) for listener in listeners]
    assert sum(counts) == CONNECTIONS
    assert min(counts) > 0  # all to one: 1 in 2⁶³


@linux
def test_no_connection_is_sent_to_a_process_that_does_not_listen_yet() -> None:
    with _listening() as (open_listener, port), open_listener() as ready, open_listener():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        ready.listen()
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert _accepted(ready) == CONNECTIONS


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("first", [1, 2])
def test_a_port_belongs_to_one_server_from_before_it_listens(first: int, second: int) -> None:
    refused = pytest.raises(Unavailable, match="choose another --port")
    with _listening(first) as (open_listener, port):
        with refused, _listening(second, port):
            pass
        with open_listener() as listener:
            listener.listen()
            with refused, _listening(second, port):
                pass


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("first", [1, 2])
def test_a_server_starts_again_where_closed_connections_still_wait(first: int, second: int) -> None:
    """The side that closes first keeps the port for a minute (TIME_WAIT)."""
    with _listening(first) as (open_listener, port), open_listener() as listener:
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()
            client.recv(1)
    with _listening(second, port) as (open_listener, _), open_listener() as listener:
        listener.listen()


def test_only_the_same_user_may_connect_to_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    with listening(ServingSettings(uds=path), lambda url: None) as open_listener, open_listener():
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
