"""One hop to another process of ours: HTTP with msgpack, on kept connections over a Unix socket or TCP.

`http.client` rather than a full client library: a hop is taken within a request, and most of what such a library does
would be most of what it costs (`recsys bench transport`).
"""

import contextlib
import socket
from collections import deque
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, Unavailable
from serving.breaker import Breaker

T = TypeVar("T")

MEDIA_TYPE = "application/msgpack"
_DTYPES = frozenset({"<f4", "<i4", "<i8"})
_encode = msgspec.msgpack.Encoder().encode


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A numpy array on the wire: its bytes as they are in memory."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        return cls(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

    def numpy(self) -> NDArray[Any]:
        """Read-only.

        Raises:
            ValueError: the bytes are not an array of that shape and an expected dtype.
        """
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(sorted(_DTYPES))}")
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


class Hop:
    """Thread-safe. `url`: http://host:port, or unix:/path/of/the/socket. A process that hangs or is away is asked by a
    few calls only (`serving.breaker`); one that refuses a call is well."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """
        Raises:
            InvalidConfig: the URL is neither form.
        """
        parts = urlsplit(url)
        good = parts.path if parts.scheme == "unix" else parts.scheme == "http" and parts.hostname
        if not good:
            raise InvalidConfig(f"{url!r}: use http://host:port or unix:/path/of/the/socket")
        self._url = url
        self._parts = parts
        self._timeout_s = timeout_s
        self._idle: deque[HTTPConnection] = deque()
        self._breaker = Breaker()

    def call(self, path: str, content: object, kind: type[T], timeout_s: float | None = None) -> T:
        """POST the content, return the decoded answer.

        Raises:
            Unavailable: the process is away, too slow, or cannot answer this.
        """
        body = _encode(content)
        status, answer = self._breaker.call(lambda: self._send(path, body, timeout_s or self._timeout_s))
        if status != HTTPStatus.OK:
            raise Unavailable(f"{self._url}{path}: {status}: {answer[:200].decode(errors='replace')}")
        try:
            return msgspec.msgpack.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self._url}: not an answer of this version: {error}") from error

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _send(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the answer, whatever they are."""
        try:
            kept = self._idle.pop()
        except IndexError:
            pass
        else:
            with contextlib.suppress(ConnectionError, HTTPException):  # closed by the other side meanwhile
                return self._exchange(kept, path, body, timeout_s)
        try:
            return self._exchange(self._connection(timeout_s), path, body, timeout_s)
        except ConnectionError as error:  # it has ended in the middle of the call
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
        if self._parts.scheme == "unix":
            connection = _UnixConnection(self._parts.path, timeout_s)
        else:
            connection = HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=timeout_s)
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
