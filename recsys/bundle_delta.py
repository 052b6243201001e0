"""A bundle as one file that changes another one into it: what is carried to hosts that have that one.

A ZIP archive with the manifest, its signature, and an entry for each file that the base does not have: deflated, as it
is or as its `difference` from the base's file of that name, whichever is smaller. `delta.json` says which. Nothing of
it is believed: a host takes what the manifest's checksums confirm, and shows the bundle whole or not at all.
"""

import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import msgspec
from msgspec import Meta, Struct

from recsys.bundle import (
    MANIFEST,
    SIGNATURE,
    Bundle,
    files_by_checksum,
    is_intact,
    is_version,
    open_bundle,
    read_manifest,
)
from recsys.contracts.errors import InvalidBundle
from recsys.deltas import added, difference, interleaved, planes
from recsys.files import staged_file, staged_folder
from recsys.operator_files import MAX_BYTES, parse_json
from recsys.signatures import PublicKeys

FORMAT = 1
_HEADER = "delta.json"
_CHUNK = 1 << 20  # bytes of a file that are in memory at a time
WIDTHS = (1, 4)  # of what files are made of, as far as it matters: bytes and text, float32 and int32
_LEVEL, _JUDGED = 6, 1  # of Deflate: of what is written, and to see what is smaller
# what zipfile raises on a damaged archive; KeyError: an entry is missing
_DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, KeyError, OSError, RuntimeError, ValueError)


class FileChange(Struct, frozen=True, forbid_unknown_fields=True):
    """How a file is written. `base`: SHA-256 of the file of which it is the difference; empty: of none, it is whole."""

    base: str = ""
    width: Annotated[int, Meta(ge=1, le=16)] = 1  # of `recsys.deltas.planes`


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    """`base`: version of the bundle to have; `changes`: by file name. Other files are as in the base."""

    format: int
    version: str
    base: str
    changes: dict[str, FileChange]


@dataclass(frozen=True)
class WrittenDelta:
    """Size, and how each file is written that the base does not have."""

    bytes: int
    changes: Mapping[str, FileChange]


def write_delta(base: Bundle, bundle: Bundle, path: Path) -> WrittenDelta:
    """Write what makes `bundle` of `base`, atomically. The same bundles give the same bytes."""
    known = set(base.manifest.files.values())
    changes = {
        name: _smallest(base, bundle, name)
        for name, checksum in bundle.manifest.files.items()
        if checksum not in known
    }
    header = _Header(FORMAT, bundle.manifest.version, base.manifest.version, changes)
    with staged_file(path) as temporary:
        with ZipFile(temporary, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
            _write(archive, _HEADER, [msgspec.json.encode(header)])
            for name in (MANIFEST, SIGNATURE):
                if (bundle.path / name).is_file():
                    _write(archive, name, [(bundle.path / name).read_bytes()])
            for name, change in changes.items():
                _write(archive, name, _encoded(base, bundle, name, change))
        return WrittenDelta(temporary.stat().st_size, changes)


def apply_delta(path: Path, bundles: Path, keys: PublicKeys = ()) -> Bundle:
    """Make the bundle that `path` describes in a folder that has its base; one that is there already stays.

    Raises:
        InvalidBundle: the delta is damaged or not signed, a file of the base is missing or damaged, or another bundle
            has this version. The folder is then as it was.
    """
    with _open(path) as archive:
        header = _read_header(archive, path)
        target = bundles / header.version
        if target.exists():
            return _applied_before(archive, target, keys)
        with staged_folder(target) as staging:
            _check_room(archive, path, bundles)
            for name in {MANIFEST, SIGNATURE} & set(archive.namelist()):
                (staging / name).write_bytes(_content(archive, name))
            here = files_by_checksum(bundles)
            for name, checksum in read_manifest(staging, keys).files.items():
                if not is_version(name):
                    raise InvalidBundle(f"{path}: {name!r} is not a plain file name; write the delta again")
                change = header.changes.get(name)
                needed = checksum if change is None else change.base
                file = here.get(needed)
                if needed and (file is None or not is_intact(file, needed)):
                    raise InvalidBundle(
                        f"{path}: {bundles} has no undamaged {name} of bundle {header.base}; copy the whole bundle"
                        " instead (`recsys bundle copy`, rsync), or write a delta from a bundle that is here"
                    )
                _place(archive, change, file, staging / name)
            manifest = open_bundle(staging, keys, header.version).manifest
    return Bundle(target, manifest)


def _smallest(base: Bundle, bundle: Bundle, name: str) -> FileChange:
    """Deflate's fastest level chooses as the one that is written would, in half the time (three nights)."""
    of = base.manifest.files.get(name)
    ways = [FileChange(sha, width) for width in WIDTHS for sha in ("", of) if sha is not None]
    return min(ways, key=lambda way: _deflated(_encoded(base, bundle, name, way)))


def _deflated(chunks: Iterable[bytes]) -> int:
    deflate = zlib.compressobj(_JUDGED)
    return sum(len(deflate.compress(chunk)) for chunk in chunks) + len(deflate.flush())


def _encoded(base: Bundle, bundle: Bundle, name: str, change: FileChange) -> Iterator[bytes]:
    with ExitStack() as stack:
        content = stack.enter_context((bundle.path / name).open("rb"))
        before = stack.enter_context((base.path / name).open("rb")) if change.base else None
        while chunk := content.read(_CHUNK):
            yield planes(difference(before.read(_CHUNK), chunk) if before else chunk, change.width)


def _place(archive: ZipFile, change: FileChange | None, file: Path | None, target: Path) -> None:
    """Write a file of the new bundle from its entry and the base's file; an unchanged one is linked or copied."""
    if change is None:
        assert file is not None  # noqa: S101 - it has been checked
        try:
            os.link(file, target)
        except OSError:  # a disk without links
            shutil.copyfile(file, target)
        return
    with ExitStack() as stack:
        before = stack.enter_context(file.open("rb")) if file else None
        out = stack.enter_context(target.open("wb"))
        for chunk in _chunks(archive, target.name):
            there = interleaved(chunk, change.width)
            out.write(added(before.read(len(there)), there) if before else there)


def _write(archive: ZipFile, name: str, chunks: Iterable[bytes]) -> None:
    with archive.open(name, "w", force_zip64=True) as entry:
        for chunk in chunks:
            entry.write(chunk)


def _open(path: Path) -> ZipFile:
    """Raises `InvalidBundle`: there is no such file, or it is not an archive."""
    try:
        return ZipFile(path)
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _check_room(archive: ZipFile, path: Path, bundles: Path) -> None:
    """Raises `InvalidBundle`: its files would fill the disk, which others need. No entry is longer than it says."""
    needed, free = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(bundles).free
    if needed > free // 2:
        raise InvalidBundle(
            f"{path}: its files take {needed:,} bytes, more than half of the {free:,} that are free in {bundles}; make"
            " room there"
        )


def _content(archive: ZipFile, name: str) -> bytes:
    """Of a small entry; what a forger makes longer than `MAX_BYTES` is cut, and so no JSON."""
    return b"".join(islice(_chunks(archive, name), MAX_BYTES // _CHUNK))


def _chunks(archive: ZipFile, name: str) -> Iterator[bytes]:
    """An entry in parts of `_CHUNK` bytes. Raises `InvalidBundle`: it is missing or damaged."""
    try:
        # of other kinds of compression, a few bytes are decompressed into gigabytes at once
        if archive.getinfo(name).compress_type not in (ZIP_DEFLATED, ZIP_STORED):
            raise BadZipFile(f"{name} is not deflated")
        with archive.open(name) as entry:
            while chunk := entry.read(_CHUNK):
                yield chunk
    except _DAMAGE as error:
        raise _damaged(archive.filename, error) from error


def _damaged(path: object, error: Exception) -> InvalidBundle:
    return InvalidBundle(f"{path}: not a whole delta ({error}); carry it here again")


def _read_header(archive: ZipFile, path: Path) -> _Header:
    header = parse_json(_content(archive, _HEADER), path, _Header, InvalidBundle)
    if header.format != FORMAT or not is_version(header.version):
        raise InvalidBundle(
            f"{path}: format {header.format}, version {header.version!r}; this program reads format {FORMAT}: write the"
            " delta with the same release of it"
        )
    return header


def _applied_before(archive: ZipFile, target: Path, keys: PublicKeys) -> Bundle:
    """The bundle that is there, if it is the delta's: a command that is repeated on many hosts succeeds."""
    there = open_bundle(target, keys)
    if (target / MANIFEST).read_bytes() != _content(archive, MANIFEST):
        raise InvalidBundle(f"{target} is another bundle of this version; a published bundle never changes")
    return there
