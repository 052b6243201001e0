"""Change several files of the lake at once: all or nothing, also when the process is killed.

1. Write the new files into a folder of the lake (`staging`), laid out as the lake is.
2. `commit` renames that folder to `_commit`: the change is made.
3. It moves the files to their places, deletes those that they replace, and removes the folder.

After a crash, the next process that takes the lock (`rewriting`) or is about to read (`settle`) finishes step 3.
"""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import atomic_write, locked
from recsys.operator_files import read_json

_COMMIT = "_commit"
_DELETED = "_deleted.json"


@contextmanager
def rewriting(lake: Path) -> Iterator[None]:
    """The lock for reading, changing and rewriting a file of the lake; importer, compaction and archiver take turns.
    Hold it briefly, unlike the archiver's lock. It ends with the process."""
    with locked(lake / "rewriting.lock"):
        _finish(lake)
        yield


def settle(lake: Path) -> None:
    """Finish an interrupted commit, wait for one that is being made. Not while holding `rewriting`."""
    if (lake / _COMMIT).exists():
        with rewriting(lake):
            pass


@contextmanager
def staging(lake: Path, name: str) -> Iterator[Path]:
    """A new folder in the lake, removed at the end. A killed process leaves its own to the next of the same name.

    Raises:
        InvalidConfig: another process is writing under that name.
    """
    lake.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=lake))
    with _open_folder(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # under this name nobody looks for it
            with rewriting(lake):
                for other in lake.glob(f"_{name}~*"):
                    if _is_locked(other):
                        raise InvalidConfig(
                            f"{lake}: another process is writing {name}; wait until it has ended"
                        )
                    shutil.rmtree(other)
                folder = folder.rename(lake / f"_{name}~{secrets.token_hex(4)}")
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def commit(lake: Path, staged: Path, replaced: Iterable[Path] = ()) -> None:
    """Move every file below `staged` to the same place below the lake, and delete the `replaced` files of the lake that
    have no successor in `staged`. Hold `rewriting(lake)`."""
    names = [str(path.relative_to(lake)) for path in replaced]
    deleted = [name for name in names if not (staged / name).exists()]
    atomic_write(staged / _DELETED, json.dumps(deleted), fsync=True)
    staged.rename(lake / _COMMIT)
    _finish(lake)


def _finish(lake: Path) -> None:
    """Step 3; idempotent."""
    ready = lake / _COMMIT
    if not ready.exists():
        return
    deleted = ready / _DELETED
    for source in sorted(path for path in ready.rglob("*") if path.is_file() and path != deleted):
        target = lake / source.relative_to(ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    if deleted.exists():
        for name in read_json(deleted, list[str], InvalidData):
            gone = lake / name
            if not gone.resolve().is_relative_to(lake.resolve()):
                raise InvalidData(f"{deleted}: {name!r} is no file of the lake; remove the folder {ready}")
            gone.unlink(missing_ok=True)
    shutil.rmtree(ready)


def _is_locked(folder: Path) -> bool:
    with _open_folder(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
