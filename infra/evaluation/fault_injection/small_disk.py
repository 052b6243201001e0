"""A disk of its own for the spool, small enough to be filled."""

import errno
import subprocess
from pathlib import Path
from typing import Self

_FILLER = "filler"
_BLOCK = b"\0" * 65_536


class SmallDisk:
    """A context manager: a tmpfs of `size_bytes` at `folder`, which needs root. `real` is False where it cannot be
    mounted; then the folder is an ordinary one, and filling it proves nothing."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.real = False
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        options = f"size={self._size_bytes},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        self.real = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.real:
            # lazily: a stopping process may still have a file open
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Write until no space is left."""
        if not self.real:
            return
        with (self.folder / _FILLER).open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        (self.folder / _FILLER).unlink(missing_ok=True)
