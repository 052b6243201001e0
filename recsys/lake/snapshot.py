"""What a lake in an object store is: one object that lists the files, and an object for each file.

The list, `_snapshot.json`, is replaced as a whole, so it is the commit. The objects of files are never changed: a
name has the number of the snapshot that had the file first, and the digest of its content. Folders and suffixes are
the lake's, so that Spark can read them as a lake, too.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated

import msgspec

from recsys.contracts.errors import InvalidData

SNAPSHOT = "_snapshot.json"
FORMAT = 1
STATE = "_mirror"  # in the lake: what the last push or pull knew
_OF_THIS_MACHINE = (
    ("rewriting.lock",),
    (STATE,),
    ("_archive", "lock"),
    ("_archive", "heartbeat"),
    ("_archive", "writing"),
)
_NAME = re.compile(r"\.(\d+)-[0-9a-f]{16}(\.[^./]+)?$")


class File(msgspec.Struct, frozen=True):
    """`since`: the number of the snapshot that had this content at this path first."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str
    since: Annotated[int, msgspec.Meta(ge=1)]


class Snapshot(msgspec.Struct, frozen=True):
    """A lake at one instant. `id` is its own: two machines may have made the same number. `lineage`: the id of the
    first snapshot, from which a push made the next one, and so on."""

    number: Annotated[int, msgspec.Meta(ge=1)]
    id: str
    lineage: str
    created: str
    machine: str
    files: dict[str, File]
    format: int = FORMAT


def is_content(path: PurePosixPath) -> bool:
    """Whether a path below the lake belongs to it, not to a lock, a staging folder or a process of this machine.

    >>> [is_content(PurePosixPath(p)) for p in ("items/items.parquet", "_archive/checkpoint.json", "_archive/lock")]
    [True, True, False]
    """
    parts = path.parts
    if not parts or path.is_absolute() or any(part.startswith(".") for part in parts):
        return False
    if any(parts[: len(other)] == other for other in _OF_THIS_MACHINE):
        return False
    return not parts[0].startswith("_") or parts[0] == "_archive"


def object_name(path: str, file: File) -> str:
    """The name of a file's object.

    >>> object_name("items/items.parquet", File(3, "ab" * 32, since=7))
    'items/items.7-abababababababab.parquet'
    """
    place = PurePosixPath(path)
    return str(place.with_name(f"{place.stem}.{file.since}-{file.sha256[:16]}{place.suffix}"))


def garbage(names: set[str], snapshot: Snapshot, *, first: bool = False) -> list[str]:
    """Objects of files that neither the snapshot nor a later one that is being pushed has. Foreign ones are none.
    `first`: of its lineage, so that later numbers are of an earlier one."""
    used = {object_name(path, file) for path, file in snapshot.files.items()}
    return sorted(
        name
        for name in names - used
        if (found := _NAME.search(name))
        and (first or int(found[1]) <= snapshot.number)
        and is_content(PurePosixPath(name))
    )


def parse_snapshot(content: bytes, where: str) -> Snapshot:
    """Raises `InvalidData`: it is damaged, of another format, or names what is no file of a lake."""
    try:
        found = msgspec.json.decode(content, type=Snapshot)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{where}: not a snapshot of a lake: {error}; restore its last version") from error
    if found.format != FORMAT:
        raise InvalidData(f"{where}: format {found.format}; this version reads {FORMAT}")
    for path, file in found.files.items():
        normal = str(PurePosixPath(path)) == path and "\\" not in path and "\0" not in path
        if not (normal and is_content(PurePosixPath(path)) and re.fullmatch(r"[0-9a-f]{64}", file.sha256)):
            raise InvalidData(f"{where}: {path!r} is no file of a lake; restore its last version")
        if any(str(parent) in found.files for parent in PurePosixPath(path).parents):
            raise InvalidData(f"{where}: {path!r} is below a file; restore its last version")
    return found
