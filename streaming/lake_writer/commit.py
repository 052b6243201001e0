"""Commit files and their checkpoint (the next offsets) to the lake in one step, `recsys.lake.commit`.

So after a crash at any point the lake holds exactly the rows before its checkpoint. A commit may replace a table that
other processes rewrite, so the archiver holds `recsys.lake.commit.rewriting` from reading that table until the end.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import structlog

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import atomic_write, locked
from recsys.lake.commit import commit as move_into_place
from recsys.lake.commit import settle
from recsys.lake.lake import write_parquet
from recsys.operator_files import read_json

FOLDER = "_archive"
HEARTBEAT = "heartbeat"  # written after each step: its time is the archiver's health, its lines what stopped
_CHECKPOINT = "checkpoint.json"
_PARTITIONS = "partitions"  # of each topic when it was archived first
_ADDED = "added.json"  # partitions that a topic has got since → the watermark they begin with

_log = structlog.get_logger(__name__)


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
    """The checkpoint; empty for a new lake. Raises `InvalidData`: it is damaged; from 0, rows would be there twice."""
    try:
        return read_json(lake / FOLDER / _CHECKPOINT, dict[str, Place], InvalidData)
    except FileNotFoundError:
        return {}
    except InvalidData as error:
        raise InvalidData(f"{error}; restore the lake from its backup, with this file") from error


def beat(lake: Path, stopped: Iterable[object] = ()) -> None:
    """Say that the archiver lives, and which partitions it does not read any further."""
    heartbeat = lake / FOLDER / HEARTBEAT
    heartbeat.parent.mkdir(parents=True, exist_ok=True)
    heartbeat.write_text("".join(f"{each}\n" for each in stopped))


def stopped_partitions(lake: Path) -> list[str]:
    """Why the archiver does not read some partitions any further."""
    try:
        return (lake / FOLDER / HEARTBEAT).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def added_partitions(lake: Path) -> dict[str, int]:
    """Partitions ("topic/number") that topics have got since the lake was archived first → the watermark (Unix
    milliseconds) that each begins with, as in the store. Raises `InvalidData`: the file is damaged."""
    try:
        return read_json(lake / FOLDER / _ADDED, dict[str, int], InvalidData)
    except FileNotFoundError:
        return {}


def add_partitions(lake: Path, watermarks: Mapping[str, int]) -> dict[str, int]:
    """Let the archiver read these as well. One that was added before keeps its watermark. Returns all."""
    known = dict(watermarks) | added_partitions(lake)
    (lake / FOLDER).mkdir(parents=True, exist_ok=True)
    atomic_write(lake / FOLDER / _ADDED, json.dumps(known, indent=2), fsync=True)
    return known


def check_added(lake: Path, topic: str, found: int) -> None:
    """Raises `InvalidConfig`: a topic has partitions that `recsys topics grow` has not added to the lake."""
    known = lake / FOLDER / _PARTITIONS
    if not known.exists():
        atomic_write(known, str(found))
    added = added_partitions(lake)
    if any(f"{topic}/{p}" not in added for p in range(int(known.read_text()), found)):
        raise InvalidConfig(
            f"{lake} does not know all {found} partitions of topic {topic}: run `recsys topics grow {found}`"
        )


@contextmanager
def exclusive(lake: Path) -> Iterator[None]:
    """Lock the lake for one archiver; the lock ends with the process.
    Raises `InvalidConfig`: another archiver runs on this lake."""
    with ExitStack() as opened:
        try:
            opened.enter_context(locked(lake / FOLDER / "lock", wait=False))
        except BlockingIOError as error:
            raise InvalidConfig(f"another archiver writes to {lake}; run one per lake") from error
        yield
