"""Changes of users on the log: what is written is read again, what breaks the contract is refused with the reason."""

import json
from typing import Any

import pytest

from recsys.contracts.changes import UserChange, parse_user_change
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.types import User


@pytest.mark.parametrize("user", [User("7", {"age": "31", "Ä": "b"}), User("7"), None])
def test_what_is_written_is_read_again(user: User | None) -> None:
    change = UserChange("7", user, 1_750_000_000_000)
    assert parse_user_change(json.loads(json.dumps(change.to_dict()))) == change


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"changed_ms": 5}, "user change"),
        ({"item": {"item_id": "a"}, "changed_ms": 5}, "user change"),
        ({"deleted": "a", "changed_ms": 0}, "changed_ms"),
        ({"user": "a", "changed_ms": 5}, "user"),
        ({"user": {"attributes": {}}, "changed_ms": 5}, "user_id"),
        ({"user": {"user_id": "a", "age": 31}, "changed_ms": 5}, "user"),
        ({"user": {"user_id": "a", "attributes": {"age": 31}}, "changed_ms": 5}, "attributes"),
        ({"user": {"user_id": "a", "attributes": ["age"]}, "changed_ms": 5}, "attributes"),
        (
            {"user": {"user_id": "a", "attributes": {str(n): "" for n in range(99)}}, "changed_ms": 5},
            "attributes",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(raw: Any, says: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^{says}"):
        parse_user_change(raw)
