"""Raw sockets against a real uvicorn: whatever a client does without a key, its connection ends and others are
answered."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.connections import Connections, bounded, client_of
from serving.settings import ServingSettings
from tests.serving.waiting import eventually

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
LONG = b"x" * 100_000
LONG_S = {"header_s": 1_000, "body_s": 1_000, "idle_s": 1_000}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    size = int(request.query_params.get("size", 0))
    body = await request.body()
    await Response(body or b"y" * size or b"ok")(scope, receive, send)


@dataclass
class Running:
    port: int
    connections: Connections

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(sent)
        return connection

    def answer(self, sent: bytes) -> bytes:
        """Everything until the server closes."""
        with self.connect(sent) as connection:
            return read_all(connection)

    def alive(self) -> bool:
        return self.answer(b"GET / HTTP/1.0\r\n\r\n").endswith(b"ok")


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


@contextmanager
def serving(most: int = 1_000, application: ASGIApp = echo, **limits: Any) -> Iterator[Running]:
    http: Any = bounded(ServingSettings(**LONG_S | limits), most)
    config = uvicorn.Config(application, http=http, ws="none", lifespan="off", log_config=None)
    (connections,) = http.args
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Running(listener.getsockname()[1], connections)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    """Every step has a tenth of a second."""
    with serving(header_s=0.1, body_s=0.1, idle_s=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """No step ends in the time of a test."""
    with serving(max_header_bytes=4_096) as running:
        yield running


def test_a_client_that_stops_at_any_point_is_dropped(quick: Running) -> None:
    header = [b"G", b"GET / HTTP/1.1\r\nhost: x\r\n"]
    other = [b"", b"\r\n" * 9, GET, POST, POST + b"half", CHUNKED + b"5\r\nhalf"]
    with ExitStack() as opened:
        stopped = [opened.enter_context(quick.connect(sent)) for sent in header + other]
        answers = [read_all(connection) for connection in stopped]
    for answer in answers[: len(header)]:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer
    eventually(lambda: not quick.connections._open)
    assert not quick.connections._idle
    assert not quick.connections._count_of
    assert not quick.connections._idle_of


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + LONG,
        b"GET / HTTP/1.1\r\na: " + LONG,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000,
        b"GET / HTTP/1.1\r\na: " + b"b" * 5_000 + b"\r\n\r\n",  # complete, in one piece
        CHUNKED + b"1;" + LONG,
        CHUNKED + b"0\r\n" + b"a: b\r\n" * 10_000,
        CHUNKED + b"1\r\nx\r\n" * 10_000,
        b"\r\n" * 10_000,
    ],
    ids=["path", "value", "headers", "complete", "extension", "trailers", "tiny chunks", "empty lines"],
)
def test_what_is_no_body_has_a_bound(patient: Running, sent: bytes) -> None:
    got = patient.answer(sent)
    assert got == b"" or got.startswith(b"HTTP/1.1 431 ")
    assert patient.alive()


def test_a_body_in_ordinary_chunks_and_pipelined_requests_are_answered(patient: Running) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(LONG), LONG) for _ in range(4)) + b"0\r\n\r\n"
    last = GET.replace(b"host", b"connection: close\r\nhost")
    assert LONG * 4 in patient.answer(CHUNKED + body + last)
    assert patient.answer(GET * 49 + last).count(b"HTTP/1.1 200 OK") == 50


def test_an_answer_that_nobody_takes_is_dropped(quick: Running) -> None:
    with quick.connect(b"GET /?size=50000000 HTTP/1.1\r\n\r\n"):
        eventually(lambda: not quick.connections._open)


def test_what_is_not_http_gets_a_problem(patient: Running) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"FOO / HTTP/9.9\r\n\r\n",
        b"CONNECT x HTTP/1.1\r\n\r\n",
    ):
        assert patient.answer(sent).startswith(b"HTTP/1.1 400 "), sent
    upgrade = GET.replace(b"host", b"upgrade: websocket\r\nconnection: upgrade, close\r\nhost")
    assert patient.answer(upgrade).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "limits", [{"most": 20}, {"max_connections_per_client": 20}], ids=["in all", "client"]
)
def test_a_new_connection_takes_the_place_of_the_longest_idle_one(limits: dict[str, Any]) -> None:
    with serving(**limits) as running, ExitStack() as opened:
        busy = opened.enter_context(running.connect(POST))
        eventually(lambda: len(running.connections._open) == 1 and not running.connections._idle)
        idle = [opened.enter_context(running.connect()) for _ in range(40)]
        assert running.alive()
        assert read_all(idle[0]) == b""
        idle[-1].sendall(GET)
        assert idle[-1].recv(4_096).startswith(b"HTTP/1.1 200 ")
        busy.sendall(b"0123456789")
        assert busy.recv(4_096).endswith(b"0123456789")


def test_when_every_connection_is_busy_a_new_one_is_refused() -> None:
    with serving(most=16) as running, ExitStack() as opened:
        busy = [opened.enter_context(running.connect(POST)) for _ in range(16)]
        eventually(lambda: len(running.connections._open) == 16 and not running.connections._idle)
        assert running.answer(b"").startswith(b"HTTP/1.1 503 ")
        busy[0].sendall(b"0123456789")
        assert busy[0].recv(4_096).endswith(b"0123456789")
        assert running.alive()


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from([GET, POST, CHUNKED, b"0\r\n\r\n", b"5\r\n", b"abc", b"\r\n", b"\x00"]), max_size=6
    )
)
def test_no_sequence_of_pieces_keeps_a_connection(patient: Running, pieces: list[bytes]) -> None:
    with patient.connect() as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused on the way
        read_all(connection)


def test_no_connection_is_left_behind(patient: Running) -> None:
    """After all of the above."""
    eventually(lambda: not patient.connections._open)
    assert patient.alive()


def test_a_client_is_an_address_or_a_network_of_ipv6() -> None:
    assert client_of("192.0.2.7") == "192.0.2.7"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")
