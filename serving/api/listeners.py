"""The sockets that the API listens on.

On Linux each of several processes has a socket of its own on the same port (SO_REUSEPORT), and the kernel spreads
connections over them: of processes that share one socket, the first to wake accepts nearly all connections. A process
listens as soon as it is ready, so none is sent to one that is still starting. Elsewhere, and on a Unix socket, they
share one.
"""

import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.contracts.errors import Unavailable
from serving.settings import ServingSettings

OpenListener = Callable[[], socket.socket]
"""A bound socket for the process that calls it."""

_BACKLOG = 2_048


@contextmanager
def listening(settings: ServingSettings, announce: Callable[[str], None]) -> Iterator[OpenListener]:
    """The address of `settings`, kept for this process and those that it forks.
    `announce`: called with the URL. Raises `Unavailable`: the address cannot be had; another program listens there."""
    if settings.uds:
        shared = _listen_unix(settings.uds)
        announce(f"unix:{settings.uds}")
    else:
        spread = settings.workers > 1 and sys.platform == "linux"
        shared = (_reserve if spread else _listen)(settings.host, settings.port)
        announce(f"http://{settings.host}:{shared.getsockname()[1]}")
        if spread:
            with shared:
                yield lambda: _bind(*shared.getsockname()[:2], socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            return
    with shared:
        yield shared.dup


def _listen(host: str, port: int) -> socket.socket:
    listener = _bind(host, port, socket.SO_REUSEADDR)
    listener.listen(_BACKLOG)
    return listener


def _reserve(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen. It keeps the port: nobody else gets it, unless by SO_REUSEPORT, as we do.
    That option alone would also let a second server in unnoticed, so the port is first bound without it."""
    with _bind(host, port, socket.SO_REUSEADDR) as alone:
        address = alone.getsockname()[:2]
    try:
        return _bind(*address, socket.SO_REUSEPORT)
    except Unavailable:  # closed connections of an earlier program wait there
        return _bind(*address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def _bind(host: str, port: int, *options: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
        ) from error
    return bound


def _listen_unix(path: Path) -> socket.socket:
    """Only processes of the same user may connect."""
    listener = socket.socket(socket.AF_UNIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()  # of a process that is gone
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path} ({error.strerror}); choose another --uds") from error
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listener.listen(_BACKLOG)
    return listener
