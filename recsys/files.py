"""Files and folders that readers see whole or not at all, and locks.

Each is written to a temporary path next to its target and renamed into place. A killed process leaves the target as
it was and at most a temporary path, whose name starts with a dot and ends in no known suffix.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, content: str | bytes, *, fsync: bool = False) -> None:
    """Replace the content of a file in one step.

    Args:
        fsync: flush to disk before the rename, so that the file also survives a power failure.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder) / "new" / "CURRENT", "v2")
    ...     (Path(folder) / "new" / "CURRENT").read_text()
    'v2'
    """
    with staged_file(path, fsync=fsync) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def staged_file(path: Path, *, fsync: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` on success, remove it on an error.

    For libraries that write files themselves; `atomic_write` serves everything else.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if fsync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(path)
        if fsync:
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(path: Path) -> None:
    """Else power that fails may undo a rename."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; rename it to `path` on success, remove it on an error. Raises `OSError`: `path`
    exists and is not an empty folder (`replace_folder` replaces one)."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`. A process killed between the two renames leaves no `folder`."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a file, which is made; it ends with the process. Raises `BlockingIOError`: another process has
    it, and `wait` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
