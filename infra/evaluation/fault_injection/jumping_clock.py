"""A wall clock that jumps, for the processes that are started with `environ`."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / "clock"  # not imported from here


class JumpingClock:
    """Seconds to add, in a file that the processes map (`clock/sitecustomize.py`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(struct.pack("<d", 0.0))

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment of the processes that follow it."""
        paths = [str(_FOLDER), os.environ.get("PYTHONPATH", "")]
        return {"DRILL_CLOCK": str(self._path), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def jump(self, seconds: float) -> None:
        """Set the offset from the true time."""
        with self._path.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("<d", seconds))
