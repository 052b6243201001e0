"""Users who asked to be forgotten: marks in the lake that each compaction applies.

`lake/forget/<sha256 of the user id>.json` says up to which event time everything of that user is removed; the id
itself is not stored. Marks stay, because a later import could bring the user's data back.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from recsys.contracts.errors import InvalidData
from recsys.files import atomic_write
from recsys.lake.commit import rewriting
from recsys.operator_files import read_json

_log = structlog.get_logger(__name__)
FOLDER = "forget"
_REJECTED, _REPORT, _REPORTS = (
    "rejected",
    "import-report.json",
    "imports",
)  # of imports: the latest, each data set's


class _Mark(msgspec.Struct):
    until_ms: int


def user_digest(user_id: str) -> str:
    """The name under which a mark stores its user."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def mark_forgotten(lake: Path, user_id: str, until_ms: int) -> Path:
    """Have compaction remove all of the user up to that event time. Idempotent. Not while holding `rewriting`."""
    path = lake / FOLDER / f"{user_digest(user_id)}.json"
    with rewriting(lake):  # else a pull that commits meanwhile may remove it
        atomic_write(path, json.dumps({"until_ms": until_ms}))
    return path


def forget_in_lake(lake: Path, user_id: str, until_ms: int) -> None:
    """Mark the user as `mark_forgotten` does, and remove the broken rows of imports that name it."""
    mark_forgotten(lake, user_id, until_ms)
    with rewriting(lake):  # else it may write again what an import or a pull has just replaced
        _forget_rejected(lake, re.compile(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])"))


def _forget_rejected(lake: Path, named: re.Pattern[str]) -> None:
    """Remove what an import has kept of its broken rows that names the user, and what of that cannot be read."""
    for path in (lake / _REJECTED).glob("*.parquet"):
        try:
            rows = pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            _drop(path, error)
            continue
        keep = [not named.search(" ".join(map(str, row.values()))) for row in rows.to_pylist()]
        if not all(keep):
            atomic_write(path, _parquet(rows.filter(pa.array(keep))))
    for report in (lake / _REPORT, *(lake / _REPORTS).glob("*.json")):
        try:
            content = read_json(report, dict[str, Any], InvalidData)
        except FileNotFoundError:
            continue
        except InvalidData as error:
            _drop(report, error)
            continue
        for name, value in content.items():
            if isinstance(value, list):
                content[name] = [entry for entry in value if not named.search(json.dumps(entry))]
        atomic_write(report, json.dumps(content, indent=2))


def _drop(path: Path, error: Exception) -> None:
    """It may name the user, and is only a record of what an import refused."""
    _log.warning("removed a damaged file that may name a forgotten user", path=str(path), reason=str(error))
    path.unlink(missing_ok=True)


def _parquet(rows: pa.Table) -> bytes:
    content = pa.BufferOutputStream()
    pq.write_table(rows, content)
    return bytes(content.getvalue())


def forgotten_users(lake: Path) -> Mapping[str, int]:
    """Digest of the user id → the last event time to remove. Raises `InvalidData`: a mark cannot be read, and
    compaction must not proceed without it."""
    found = {}
    for path in sorted((lake / FOLDER).glob("*.json")):
        try:
            found[path.stem] = read_json(path, _Mark, InvalidData).until_ms
        except (FileNotFoundError, InvalidData) as error:
            raise InvalidData(f"not a mark of a forgotten user: {error}; forget the user again") from error
    return found


def is_forgotten(forgotten: Mapping[str, int], user_id: str, time_ms: int) -> bool:
    """Whether an event of the user at that time is to be removed, by the result of `forgotten_users`."""
    return bool(forgotten) and time_ms <= forgotten.get(user_digest(user_id), -1)
