"""Users' static attributes on the log: what the API accepts, and any producer may send, to the topic `users`.

{"user": {"user_id": "196", "attributes": {"age": "31"}}, "changed_ms": 1750000000000}
{"deleted": "196", "changed_ms": 1750000000000}
"""

from dataclasses import dataclass
from typing import Any

from recsys.contracts.changes import parse_attributes, parse_id, parse_parts
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.types import User


@dataclass(frozen=True, slots=True)
class UserChange:
    """`recsys.contracts.changes.Change`: a user's attributes are replaced as a whole, or deleted (`user` is None)."""

    user_id: str
    user: User | None
    changed_ms: int

    @property
    def key(self) -> str:
        return self.user_id

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        if self.user is None:
            return {"deleted": self.user_id, "changed_ms": self.changed_ms}
        entry = {"user_id": self.user_id, "attributes": dict(self.user.attributes)}
        return {"user": entry, "changed_ms": self.changed_ms}


def parse_user_change(raw: Any) -> UserChange:
    """Check decoded JSON and make a `UserChange` of it.

    Raises:
        InvalidEvent: with the field and the reason; the caller sends both to the dead-letter topic.
    """
    put, deleted, changed_ms = parse_parts(raw, "user")
    if deleted:
        return UserChange(deleted, None, changed_ms)
    if not isinstance(put, dict) or not put.keys() <= {"user_id", "attributes"}:
        raise InvalidEvent("user: an object of user_id and attributes is required")
    user = User(parse_id(put.get("user_id"), "user_id"), parse_attributes(put.get("attributes", {})))
    return UserChange(user.user_id, user, changed_ms)
