"""Answers that moto's server does not give: those of a store that is overloaded, or that hangs up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from recsys.contracts.errors import AccessRefused, InvalidConfig, InvalidData, RecsysError, Unavailable
from recsys.lake.object_store import ObjectStore
from tests.object_stores import variables


class Store(BaseHTTPRequestHandler):
    """Answers every request with one error, or hangs up in the middle of a content."""

    code, name = 503, "SlowDown"
    body = ""  # in the place of the error
    authorization = ""  # of the last request

    def do_PUT(self) -> None:
        Store.authorization = self.headers["Authorization"]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = (self.body or f"<Error><Code>{self.name}</Code><Message>no</Message></Error>").encode()
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
def answering(
    monkeypatch: pytest.MonkeyPatch, code: int, name: str = "", body: str = "", **more: str
) -> Iterator[ObjectStore]:
    handler = type("Handler", (Store,), {"code": code, "name": name, "body": body})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable, value in (variables(f"http://127.0.0.1:{server.server_port}") | more).items():
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
        (501, "NotImplemented", InvalidConfig),
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [("InternalError", Unavailable), ("AccessDenied", AccessRefused), ("NotImplemented", InvalidConfig)],
)
def test_an_object_that_is_not_deleted_is_the_error_that_the_store_tells(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: type[RecsysError]
) -> None:
    body = f"<DeleteResult><Error><Key>lake/x</Key><Code>{name}</Code></Error></DeleteResult>"
    with answering(monkeypatch, 200, body=body) as store, pytest.raises(kind, match=name):
        store.delete(["x"])


def test_the_region_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        answering(monkeypatch, 403, "AccessDenied", AWS_REGION="eu-central-1") as store,
        pytest.raises(AccessRefused),
    ):
        store.read("x")
    assert "/eu-central-1/s3/" in Store.authorization


def test_no_more_is_read_than_was_pushed(bucket: str, tmp_path: Path) -> None:
    store, file = ObjectStore(f"s3://{bucket}/lake"), tmp_path / "file"
    file.write_text("content")
    store.upload("x", file)
    found = store.read("x", most=7)
    assert found is not None and found.content == b"content"
    with pytest.raises(InvalidData, match="x has more than 6 bytes"):
        store.read("x", most=6)
    assert store.download("x", tmp_path / "other", size=7)
    with pytest.raises(
        InvalidData, match=r"x has another content than was pushed \(7 bytes, not 6\): delete it"
    ):
        store.download("x", tmp_path / "refused", size=6)
    assert not (tmp_path / "refused").exists()
    assert not store.download("y", tmp_path / "refused", size=6)


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.s3.amazonaws.com/lake?X-Amz-Signature=secret",
        "s3://shop/lake?X-Amz-Signature=secret",
        "s3://shop/lake#secret",
        "s3:key:secret@shop",
        "s3://key:sec/secret@shop",
    ],
)
def test_a_refused_url_is_shown_without_its_secret(url: str) -> None:
    with pytest.raises(InvalidConfig, match="is not a place for a lake") as caught:
        ObjectStore(url)
    assert "secret" not in str(caught.value)


def test_a_refused_endpoint_is_shown_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "user:secret@host")
    with pytest.raises(InvalidConfig, match=r"Invalid endpoint: \*\*\*@host"):
        ObjectStore("s3://shop/lake")
