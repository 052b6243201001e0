"""Users who asked to be forgotten: marks in the lake that each compaction applies.

`lake/forget/<sha256 of the user id>.json` says up to which event time everything of that user is removed; the id
itself is not stored. Marks stay, because a later import could bring the user's data back.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidData
from recsys.files import atomic_write
from recsys.operator_files import read_json

FOLDER = "forget"


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
