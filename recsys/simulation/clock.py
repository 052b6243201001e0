"""The clock of a world that is simulated faster than real time, in a file.

The simulation writes the file; the API reads it (`RECSYS_CLOCK`), so that requests, impressions and events carry the
world's time, and windows, decay, sessions and days keep their meaning in features and reports.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.contracts.errors import InvalidConfig
from recsys.files import atomic_write
from recsys.operator_files import read_bytes
from recsys.watched_file import WatchedFile

CLOCK_FILE = "world-clock.json"  # next to world.json
LEAD_S = 2.0  # from writing a clock to its start; readers poll once per second


class WorldClock(BaseModel):
    """At `wall_ms` the world's time is `world_ms`; it runs at `speed` until `until_ms`. Unix milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_ms: int = Field(gt=0)
    world_ms: int = Field(gt=0)
    speed: float = Field(ge=0)
    until_ms: int = Field(gt=0)

    def at(self, wall_ms: int) -> int:
        passed_ms = max(wall_ms - self.wall_ms, 0) * self.speed
        return min(self.world_ms + int(passed_ms), self.until_ms)


def write_clock(path: Path, clock: WorldClock) -> None:
    atomic_write(path, clock.model_dump_json())


def read_clock(path: Path) -> WorldClock:
    """
    Raises:
        InvalidConfig: the file is missing or invalid.
    """
    try:
        return WorldClock.model_validate_json(read_bytes(path, InvalidConfig))
    except FileNotFoundError as error:
        raise InvalidConfig(f"{path}: {error.strerror}; `recsys simulate history` writes it") from error
    except ValidationError as error:
        raise InvalidConfig(f"{path}: not a world's clock: {error.errors()[0]['msg']}") from error


def wall_ms() -> int:
    """The real time, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def clock_of(path: Path | None) -> Callable[[], int]:
    """A clock in Unix milliseconds: of the simulated world, or of real time without a path.

    Raises:
        InvalidConfig: the file is invalid now. A file that becomes invalid later is ignored.
    """
    if path is None:
        return wall_ms
    file = WatchedFile(path, read_clock)
    return lambda: file.value.at(wall_ms())
