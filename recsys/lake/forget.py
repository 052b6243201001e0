"""Users who asked to be forgotten: marks in the lake that each compaction applies.

`lake/forget/<sha256 of the user id>.json` says up to which event time everything of that user is removed; the id
itself is not stored. Marks stay, because a later import could bring the user's data back.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.files import atomic_write
from recsys.operator_files import read_json

FOLDER = "forget"
_REJECTED, _REPORT = "rejected", "import-report.json"  # of imports


class _Mark(msgspec.Struct):
    until_ms: int


def user_digest(user_id: str) -> str:
    """The name under which a mark stores its user."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def mark_forgotten(lake: Path, user_id: str, until_ms: int) -> Path:
    """Have compaction remove everything of the user up to that event time. Idempotent."""
    path = lake / FOLDER / f"{user_digest(user_id)}.json"
    atomic_write(path, json.dumps({"until_ms": until_ms}))
    return path


def forget_in_lake(lake: Path, user_id: str, until_ms: int) -> None:
    """Mark the user as `mark_forgotten` does, and remove the broken rows of imports that name it."""
    mark_forgotten(lake, user_id, until_ms)
    _forget_rejected(lake, re.compile(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])"))


def _forget_rejected(lake: Path, named: re.Pattern[str]) -> None:
    """Remove what an import has kept of its broken rows that names the user."""
    for path in (lake / _REJECTED).glob("*.parquet"):
        rows = pq.read_table(path, partitioning=None)
        keep = [not named.search(" ".join(map(str, row.values()))) for row in rows.to_pylist()]
        if not all(keep):
            atomic_write(path, _parquet(rows.filter(pa.array(keep))))
    report = lake / _REPORT
    if report.exists():
        content = json.loads(report.read_text(encoding="utf-8"))
        for name, value in content.items():
            if isinstance(value, list):
                content[name] = [entry for entry in value if not named.search(json.dumps(entry))]
        atomic_write(report, json.dumps(content, indent=2))


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
