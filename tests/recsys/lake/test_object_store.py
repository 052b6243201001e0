"""Answers that moto's server does not give: those of a store that is overloaded, or that hangs up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from recsys.contracts.errors import AccessRefused, RecsysError, Unavailable
from recsys.lake.object_store import ObjectStore
from tests.object_stores import variables


class Store(BaseHTTPRequestHandler):
    """Answers every request with one error, or hangs up in the middle of a content."""

    code, name = 503, "SlowDown"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"<Error><Code>{self.name}</Code><Message>no</Message></Error>".encode()
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_PUT()

    def do_GET(self) -> None:
        if self.code:
            return self.do_PUT()
        self.do_HEAD()
        self.wfile.write(b"half")
        return None

    def do_HEAD(self) -> None:
        self.send_response(self.code or 200)
        self.send_header("Content-Length", "8")
        self.send_header("ETag", '"x"')
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, code: int, name: str = "") -> Iterator[ObjectStore]:
    handler = type("Handler", (Store,), {"code": code, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable, value in variables(f"http://127.0.0.1:{server.server_port}").items():
        monkeypatch.setenv(variable, value)
    try:
        yield ObjectStore("s3://shop/lake")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow  # the SDK repeats its requests
@pytest.mark.parametrize(
    ("code", "name", "kind"),
    [
        (503, "SlowDown", Unavailable),
        (500, "InternalError", Unavailable),
        (403, "AccessDenied", AccessRefused),
    ],
)
def test_every_method_says_what_the_store_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, name: str, kind: type[RecsysError]
) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    with answering(monkeypatch, code, name) as store:
        for work in (
            lambda: store.read("x"),
            lambda: store.replace("x", b"", None),
            lambda: store.upload("x", file),
            lambda: store.download("x", tmp_path / "other"),
            store.sizes,
            lambda: store.delete(["x"]),
        ):
            with pytest.raises(RecsysError, match=f"{name}|{code}") as caught:
                work()
            assert type(caught.value) is kind
    assert not (tmp_path / "other").exists()


def test_a_connection_that_ends_in_the_middle_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with answering(monkeypatch, 0) as store:
        for work in (lambda: store.read("x"), lambda: store.download("x", tmp_path / "other")):
            with pytest.raises(Unavailable, match="cannot be reached"):
                work()
    assert not (tmp_path / "other").exists()
