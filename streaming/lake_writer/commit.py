"""Commit files and their checkpoint (the next offsets) to the lake atomically.

1. Write rows and checkpoint into `_archive/writing`.
2. Rename that folder to `_archive/commit`: the commit point.
3. Move the files to their places, the checkpoint last, and remove the folder.

`recover` discards a `writing` folder and finishes a `commit` folder, so after a crash at any point the lake holds
exactly the rows before its checkpoint. A commit may replace a table that other processes rewrite, so the archiver
holds `recsys.lake.lake.rewriting` from reading that table until step 3 is done.
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
from recsys.lake.lake import rewriting, write_parquet

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
    folder = lake / FOLDER
    writing = folder / "writing"
    writing.mkdir(parents=True)
    for path, table in files:
        write_parquet(writing / path, table)
    (writing / _CHECKPOINT).write_text(json.dumps(checkpoint, indent=2), encoding="utf-8")
    writing.rename(folder / "commit")
    finish(lake)


def recover(lake: Path) -> dict[str, Place]:
    """Finish or discard an interrupted commit; returns the checkpoint."""
    folder = lake / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "writing", ignore_errors=True)
    with rewriting(lake):
        finish(lake)
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


def finish(lake: Path) -> None:
    """Step 3; idempotent. Hold `rewriting(lake)`: a commit found then is of an archiver that died."""
    folder = lake / FOLDER
    ready = folder / "commit"
    for source in sorted(ready.rglob("*.parquet")):
        target = lake / source.relative_to(ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    if (ready / _CHECKPOINT).exists():
        (ready / _CHECKPOINT).rename(folder / _CHECKPOINT)
    shutil.rmtree(ready, ignore_errors=True)
