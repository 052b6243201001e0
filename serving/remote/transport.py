"""Remote procedure calls: HTTP with msgpack bodies, on persistent connections over a Unix socket or TCP.

`http.client` rather than a full client library: the call is made within a request, and such a library would be most of
its cost.
"""

import contextlib
import socket
from collections import deque
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from recsys.contracts.errors import InvalidConfig, Unavailable
from serving.breaker import Breaker

T = TypeVar("T")

MEDIA_TYPE = "application/msgpack"
_encode = msgspec.msgpack.Encoder().encode


class RpcClient:
    """Calls one process. Thread-safe. A circuit breaker keeps calls from a process that hangs or is away; a call that
    the process refuses does not count as a failure."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """`url`: http://host:port, or unix:/path/of/the/socket. Raises `InvalidConfig`: the URL has neither form."""
        parts = urlsplit(url)
        if not (parts.path if parts.scheme == "unix" else parts.scheme == "http" and parts.hostname):
            raise InvalidConfig(f"{url!r}: use http://host:port or unix:/path/of/the/socket")
        self._url = url
        self._address = parts
        self._timeout_s = timeout_s
        self._idle: deque[HTTPConnection] = deque()
        self._breaker = Breaker()

    def call(self, path: str, content: object, kind: type[T], timeout_s: float | None = None) -> T:
        """POST the content, return the decoded answer.
        Raises `Unavailable`: the process is away, too slow, or cannot answer this."""
        body = _encode(content)
        status, answer = self._breaker.call(lambda: self._send(path, body, timeout_s or self._timeout_s))
        if status != HTTPStatus.OK:
            raise Unavailable(f"{self._url}{path}: {status}: {answer[:200].decode(errors='replace')}")
        try:
            return msgspec.msgpack.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self._url}: not an answer of this protocol version: {error}") from error

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _send(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the answer."""
        try:
            connection = self._idle.pop()
        except IndexError:
            pass
        else:
            with contextlib.suppress(ConnectionError, HTTPException):  # the other side has closed it
                return self._exchange(connection, path, body, timeout_s)
        try:
            return self._exchange(self._connection(timeout_s), path, body, timeout_s)
        except ConnectionError as error:  # the process ended in the middle of the call
            raise Unavailable(f"{self._url}{path}: {error or type(error).__name__}") from error

    def _exchange(
        self, connection: HTTPConnection, path: str, body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            connection.request("POST", path, body, {"content-type": MEDIA_TYPE})
            response = connection.getresponse()
            answer = response.read()
        except ConnectionError:
            connection.close()
            raise
        except (OSError, HTTPException) as error:
            connection.close()
            raise Unavailable(f"{self._url}{path}: {error or type(error).__name__}") from error
        self._idle.append(connection)
        return response.status, answer

    def _connection(self, timeout_s: float) -> HTTPConnection:
        connection: HTTPConnection
        if self._address.scheme == "unix":
            connection = _UnixConnection(self._address.path, timeout_s)
        else:
            connection = HTTPConnection(self._address.hostname or "", self._address.port, timeout=timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise Unavailable(f"{self._url}: {error}") from error
        if connection.sock.family != socket.AF_UNIX:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
