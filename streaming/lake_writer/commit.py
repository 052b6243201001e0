"""Commit files and their checkpoint (the next offsets) to the lake in one step, `recsys.lake.commit`.

So after a crash at any point the lake holds exactly the rows before its checkpoint. A commit may replace a table that
other processes rewrite, so the archiver holds `recsys.lake.commit.rewriting` from reading that table until the end.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from recsys.contracts.errors import InvalidConfig
from recsys.files import atomic_write
from recsys.lake.commit import commit as move_into_place
from recsys.lake.commit import settle
from recsys.lake.lake import write_parquet

FOLDER = "_archive"
HEARTBEAT = "heartbeat"  # file touched after each poll of the log; the health check reads its time
_CHECKPOINT = "checkpoint.json"


class Place(NamedTuple):
    """Progress in one topic partition: the log, the next offset, the latest event time so far."""

    log_id: str
    offset: int
    watermark_ms: int = 0


Checkpoint = Mapping[str, Place]  # by "topic/partition"


def commit(lake: Path, files: Sequence[tuple[Path, pa.Table]], checkpoint: Checkpoint) -> None:
    """Write tables below the lake and replace the checkpoint, atomically. Hold `rewriting(lake)`."""
    writing = lake / FOLDER / "writing"
    shutil.rmtree(writing, ignore_errors=True)  # of a commit that failed
    for path, table in files:
        write_parquet(writing / path, table)
    atomic_write(writing / FOLDER / _CHECKPOINT, json.dumps(checkpoint, indent=2), fsync=True)
    move_into_place(lake, writing)


def recover(lake: Path) -> dict[str, Place]:
    """Finish or discard an interrupted commit; returns the checkpoint."""
    (lake / FOLDER).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(lake / FOLDER / "writing", ignore_errors=True)
    settle(lake)
    return read_checkpoint(lake)


def read_checkpoint(lake: Path) -> dict[str, Place]:
    """The checkpoint; empty for a new lake."""
    try:
        content = json.loads((lake / FOLDER / _CHECKPOINT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {where: Place(*place) for where, place in content.items()}


@contextmanager
def exclusive(lake: Path) -> Iterator[None]:
    """Lock the lake for one archiver; the lock ends with the process.
    Raises `InvalidConfig`: another archiver runs on this lake."""
    folder = lake / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidConfig(f"another archiver writes to {lake}; run one per lake") from error
        yield
