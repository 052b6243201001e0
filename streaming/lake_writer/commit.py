"""Files of the lake and the checkpoint that belongs to them, visible together or not at all.

1. Rows and checkpoint are written into `_archive/writing`.
2. That folder is renamed to `_archive/commit`: the one atomic step that decides.
3. The files move to their places, the checkpoint last; then the empty folder goes.

`recover` throws a `writing` folder away and finishes a `commit` folder, so whoever was killed when, the lake
holds exactly the rows before its checkpoint. A commit may replace a table that others rewrite, too, so the
archiver holds `recsys.lake.lake.rewriting` from reading that table to step 3.
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
ALIVE = "alive"  # touched whenever the archiver has looked at the log: its health check reads the time
_CHECKPOINT = "checkpoint.json"


class Place(NamedTuple):
    """How far the lake is in one topic partition: the log, the next offset, the latest event time so far."""

    log_id: str
    offset: int
    watermark_ms: int = 0


Checkpoint = Mapping[str, Place]  # by "topic/partition"


def commit(lake: Path, files: Sequence[tuple[Path, pa.Table]], checkpoint: Checkpoint) -> None:
    """Put tables at their paths below the lake, and replace the checkpoint, in one step. Hold `rewriting(lake)`."""
    folder = lake / FOLDER
    writing = folder / "writing"
    writing.mkdir(parents=True)
    for path, table in files:
        write_parquet(writing / path, table)
    (writing / _CHECKPOINT).write_text(json.dumps(checkpoint, indent=2), encoding="utf-8")
    writing.rename(folder / "commit")
    finish(lake)


def recover(lake: Path) -> dict[str, Place]:
    """Clean up after a crash; returns the checkpoint."""
    folder = lake / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "writing", ignore_errors=True)
    with rewriting(lake):
        finish(lake)
    return read_checkpoint(lake)


def read_checkpoint(lake: Path) -> dict[str, Place]:
    """How far the lake is; empty in a new one."""
    try:
        content = json.loads((lake / FOLDER / _CHECKPOINT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {where: Place(*place) for where, place in content.items()}


@contextmanager
def exclusive(lake: Path) -> Iterator[None]:
    """Hold the lake for one archiver; the lock ends with the process.

    Raises:
        InvalidConfig: another archiver runs on this lake.
    """
    folder = lake / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidConfig(
                f"another archiver writes to {lake}; one is enough for all partitions"
            ) from error
        yield


def finish(lake: Path) -> None:
    """Step 3; repeating it is harmless. Hold `rewriting(lake)`: what is found then is of an archiver that died."""
    folder = lake / FOLDER
    ready = folder / "commit"
    for source in sorted(ready.rglob("*.parquet")):
        target = lake / source.relative_to(ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    if (ready / _CHECKPOINT).exists():
        (ready / _CHECKPOINT).rename(folder / _CHECKPOINT)
    shutil.rmtree(ready, ignore_errors=True)
