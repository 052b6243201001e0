"""Limits of a connection, before any key is read: how many there are, how long a header, and how long each step may
take.

uvicorn bounds neither the size of a header (httptools) nor the time for one, nor a body's; `limit_concurrency` answers
503 to everybody once idle connections have used it up. So this is uvicorn's protocol with a deadline for each step.
"""

import asyncio
from collections import Counter, defaultdict
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address
from math import inf
from typing import Any, Literal, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.problems import MEDIA_TYPE
from serving.settings import ServingSettings

_SWEEP_S = 0.5  # connections outlive their deadlines by up to this much
_DETAILS = {
    HTTPStatus.BAD_REQUEST: "this is not HTTP/1.1",
    HTTPStatus.REQUEST_TIMEOUT: "the request was not sent in time",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "header, trailer and chunk sizes together are too long",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many connections; retry later",
}


def client_of(host: str) -> str:
    """Who a limit counts: an IPv4 address, or the /64 of an IPv6 address, all of which one client may have."""
    return IPv6Address(host.partition("%")[0]).packed[:8].hex(":", 2) if ":" in host else host


class Connections:
    """The open connections of a process. Only its event loop uses it."""

    def __init__(self, settings: ServingSettings, most: int) -> None:
        """`most`: connections in all, which the process has file descriptors for."""
        self.settings = settings
        self._most = most
        self._open: dict[BoundedProtocol, None] = {}
        self._idle: dict[BoundedProtocol, None] = {}  # the longest idle first
        self._idle_of: defaultdict[str, dict[BoundedProtocol, None]] = defaultdict(dict)
        self._count_of: Counter[str] = Counter()
        self._sweeping = False

    def join(self, new: "BoundedProtocol") -> bool:
        """Take in a new connection, idle until a request's header is complete. Where there are too many, in all or of
        this client, the longest idle one is closed for it. False: every one is busy."""
        client = new.address
        mine = self.settings.max_connections_per_client if client else self._most
        if self._count_of[client] >= mine and not self._close_first(self._idle_of[client]):
            return False
        if len(self._open) >= self._most and not self._close_first(self._idle):
            return False
        self._open[new] = None
        self._count_of[client] += 1
        self.idle(new)
        if not self._sweeping:
            self._sweeping = True
            new.loop.call_later(_SWEEP_S, self._sweep, new.loop)
        return True

    def leave(self, connection: "BoundedProtocol") -> None:
        if connection not in self._open:
            return
        del self._open[connection]
        self.busy(connection)
        self._count_of[connection.address] -= 1
        if not self._count_of[connection.address]:
            del self._count_of[connection.address]
            self._idle_of.pop(connection.address, None)

    def idle(self, connection: "BoundedProtocol") -> None:
        self._idle[connection] = self._idle_of[connection.address][connection] = None

    def busy(self, connection: "BoundedProtocol") -> None:
        self._idle.pop(connection, None)
        self._idle_of[connection.address].pop(connection, None)

    def _close_first(self, idle: dict["BoundedProtocol", None]) -> bool:
        first = next(iter(idle), None)
        if first is None:
            return False
        self.leave(first)
        first.transport.abort()
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            if now > min(connection.receive_by, connection.send_by):
                connection.expire()
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(_SWEEP_S, self._sweep, loop)


def bounded(settings: ServingSettings, most: int) -> type[asyncio.Protocol]:
    """What uvicorn takes as `http`. It may be pickled until a connection is made."""
    return cast("type[asyncio.Protocol]", partial(BoundedProtocol, Connections(settings, most)))


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It is idle while it waits for a header, busy from then until the answer is complete."""

    def __init__(self, connections: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._all = connections
        self._limits = connections.settings
        self._beside_body = 0  # bytes of the current request that are not its body
        self._part: Literal["", "header", "body"] = ""  # of a request, that is being received
        self.address = ""
        self.receive_by = self.send_by = inf  # by the loop's clock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.address = client_of(self.client[0]) if self.client else ""  # a Unix socket has none
        self.receive_by = self._in(self._limits.header_s)
        if not self._all.join(self):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > self._limits.max_header_bytes and not self.transport.is_closing():
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it for what its parser refuses."""
        too_long = self._beside_body > self._limits.max_header_bytes
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_long else HTTPStatus.BAD_REQUEST)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = "header"
        self.receive_by = self._in(self._limits.header_s)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limits.max_header_bytes:  # it came in one piece
            self._beside_body = max(size, self._beside_body)
            raise ValueError("too long")  # stops the parser
        super().on_headers_complete()
        self._part = "body"
        self.receive_by = self._in(self._limits.body_s)
        self._all.busy(self)

    def on_body(self, body: bytes) -> None:
        self._beside_body = max(0, self._beside_body - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._beside_body = 0
        self._part = ""
        self.receive_by = inf
        self._rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._rest()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.send_by = self._in(self._limits.body_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.send_by = inf

    def expire(self) -> None:
        """A deadline has passed."""
        if self._part == "header" and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.abort()

    def _rest(self) -> None:
        """If nothing is received or answered any more, wait for the next request; if it is closed, for its end."""
        if self.transport.is_closing():
            self.send_by = self._in(self._limits.body_s)
        elif not self._part and self.cycle.response_complete:
            self.receive_by = self._in(self._limits.idle_s)
            self._all.idle(self)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer what is no request yet, and close; nothing is written into another answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": _DETAILS[status],
        }
        body = orjson.dumps(problem)
        head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
        self.send_by = self._in(self._limits.body_s)

    def _in(self, seconds: float) -> float:
        return self.loop.time() + seconds
