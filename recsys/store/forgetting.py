"""Forget a user: the one path of `recsys users forget` and `DELETE /v1/users/ID`.

1. The catalogue database, where there is one, deletes the user. The log gets a tombstone: compaction of the topic
   `users` then drops every record of the user, the tombstone too.
2. The lake is marked, and what imports kept of broken rows that name the user is removed.
3. The store deletes the user and remembers the digest of the id: what was sent before, and is read later from a spool
   or from Kafka, is dropped.

`recsys stream compact` applies the mark to the lake.
"""

from collections.abc import Callable
from pathlib import Path

from recsys.contracts.events import parse_id
from recsys.contracts.time_rules import TimeRules
from recsys.lake.forget import forget_in_lake
from recsys.store.base import FeatureStore


def forget(
    store: FeatureStore,
    lake: Path,
    bury: Callable[[str], None],
    user_id: str,
    now_ms: int,
    rules: TimeRules,
) -> bool:
    """True if the store had anything of the user. Idempotent; events from after the request count as a new user's.

    `bury` deletes the user in the database and hands the tombstone of that key of the topic `users` to the log, or
    raises `Unavailable`: nothing is done then. A clock that is as far ahead as `rules` allow has already stamped
    events: those are forgotten, too.
    Raises `InvalidEvent`: no user can have that id.
    """
    user_id = parse_id(user_id, "user_id")
    until_ms = now_ms + rules.future_ms
    bury(user_id)
    forget_in_lake(lake, user_id, until_ms)
    return store.forget_user(user_id, until_ms)
