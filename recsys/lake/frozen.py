"""A consistent view of a lake that other processes keep writing: its files, and the digest of each.

Files of the lake are replaced, never changed, so a hard link keeps what a path had. Digests are remembered by size,
time and inode: only new files are read.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from recsys.contracts.errors import InvalidData, Unavailable
from recsys.files import atomic_write, staged_file
from recsys.lake.commit import rewriting
from recsys.lake.snapshot import STATE, File, is_content
from recsys.operator_files import read_json

_DIGESTS, _LINKS = "digests.json", "outgoing"
_ATTEMPTS = 20


class Stat(NamedTuple):
    size: int
    modified_ns: int
    inode: int


class _Digest(NamedTuple):
    stat: Stat
    sha256: str


class Frozen(NamedTuple):
    """`links`: the folder that keeps each file whose content is not the known one, until the end."""

    stats: Mapping[str, Stat]
    sha256: Mapping[str, str]
    links: Path


@contextmanager
def frozen(lake: Path, known: Mapping[str, File]) -> Iterator[Frozen]:
    """The lake at one instant between commits. Not while holding `rewriting`; one at a time.
    Raises `Unavailable`: compaction does not end."""
    links, digests = lake / STATE / _LINKS, _read_digests(lake)

    def same(path: str, stat: Stat) -> bool:
        digest = digests.get(path)
        return (
            digest is not None
            and digest.stat == stat
            and path in known
            and known[path].sha256 == digest.sha256
        )

    shutil.rmtree(links, ignore_errors=True)  # of a process that was killed
    try:
        stats = _linked(lake, links, same)
        now = {}
        for path, stat in stats.items():
            digest = digests.get(path)
            now[path] = digest if digest and digest.stat == stat else _Digest(stat, sha256_of(links / path))
        if now != digests:
            atomic_write(lake / STATE / _DIGESTS, json.dumps(now))
        yield Frozen(stats, {path: digest.sha256 for path, digest in now.items()}, links)
    finally:
        shutil.rmtree(links, ignore_errors=True)


def stats_of(lake: Path) -> dict[str, Stat]:
    """Every file that belongs to the lake, by its path below it. Hold `rewriting(lake)`.
    Raises `InvalidData`: one of them is a link, whose target this would miss or not keep; or a folder cannot be
    listed, whose files would count as deleted."""
    found = {}
    for folder, folders, files in os.walk(lake, onerror=_refuse):
        place = Path(folder).relative_to(lake)
        folders[:] = [name for name in folders if is_content(PurePosixPath(place / name))]
        files = [name for name in files if is_content(PurePosixPath(place / name))]
        for name in (*folders, *files):
            if Path(folder, name).is_symlink():
                raise InvalidData(f"{Path(folder, name)} is a link; a lake that is pushed or pulled has none")
        for name in files:
            with suppress(FileNotFoundError):  # compaction has replaced it
                stat = Path(folder, name).stat()
                found[str(PurePosixPath(place / name))] = Stat(stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _linked(lake: Path, links: Path, same: Callable[[str, Stat], bool]) -> dict[str, Stat]:
    """Link all files but those that are the `same`, until nothing has changed meanwhile: some writers take no lock."""
    with rewriting(lake):
        before = stats_of(lake)
        for _ in range(_ATTEMPTS):
            for path, stat in before.items():
                if not same(path, stat):
                    with suppress(FileNotFoundError):
                        link_or_copy(lake / path, links / path)
            now = stats_of(lake)
            if now == before:
                return now
            shutil.rmtree(links, ignore_errors=True)
            before = now
    raise Unavailable(f"{lake} changes all the time; try again later")


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InvalidData(f"{error.filename}: cannot be listed: {error.strerror}") from error


def link_or_copy(path: Path, link: Path) -> None:
    """A copy where the file system has no links, or lets nobody link to the files of others."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:
        with staged_file(link, fsync=True) as copy:
            shutil.copyfile(path, copy)


def _read_digests(lake: Path) -> dict[str, _Digest]:
    """Only a memory: without it every file is read."""
    try:
        return read_json(lake / STATE / _DIGESTS, dict[str, _Digest], InvalidData)
    except (FileNotFoundError, InvalidData):
        return {}
