"""Forget a user: the one path of `recsys users forget` and `DELETE /v1/users/ID`.

The ids that were merged into the user are forgotten as well: what they did is the user's.

1. The catalogue database, where there is one, deletes the user. The log gets a tombstone: compaction of the topic
   `users` then drops every record of the user, the tombstone too. So do merges, which have keys of their own.
2. The lake is marked, and what imports kept of broken rows that name the user is removed.
3. The store deletes the user and remembers the digest of the id: what was sent before, and is read later from a spool
   or from Kafka, is dropped.

`recsys stream compact` applies the mark to the lake.
"""

from collections.abc import Callable
from pathlib import Path

from recsys.contracts.events import parse_id
from recsys.contracts.merges import Merges, UserMerge, linked_members
from recsys.contracts.time_rules import TimeRules
from recsys.lake.forget import forget_in_lake
from recsys.lake.merges import read_merges
from recsys.store.base import FeatureStore


def forget(
    store: FeatureStore,
    lake: Path,
    bury: Callable[[str], None],
    bury_merge: Callable[[str], None],
    user_id: str,
    now_ms: int,
    rules: TimeRules,
) -> bool:
    """True if the store had anything of the user. Idempotent; events from after the request count as a new user's.

    `bury` deletes the user in the database and hands the tombstone of that key of the topic `users` to the log, or
    raises `Unavailable`: nothing is done then. `bury_merge` hands over the tombstone of a merge's key. A clock that is
    as far ahead as `rules` allow has already stamped events: those are forgotten, too.
    Raises `InvalidEvent`: no user can have that id.
    """
    user_id = parse_id(user_id, "user_id")
    until_ms = now_ms + rules.future_ms
    ids, keys = _merged(store, lake, user_id)
    for id_ in ids:
        bury(id_)
    for key in keys:
        bury_merge(key)
    for id_ in ids:
        forget_in_lake(lake, id_, until_ms)
    had_state = [store.forget_user(id_, until_ms) for id_ in ids]
    return any(had_state)


def _merged(store: FeatureStore, lake: Path, user_id: str) -> tuple[list[str], list[str]]:
    """All ids of the user as lake or store know them, and the keys of the merges that name one of them. The user comes
    last, and what was merged into an id before it: after a crash, what is left is still linked to the user."""
    in_lake = read_merges(lake)
    found = Merges(in_lake).members(user_id) + linked_members(user_id, store.links)  # nearest first
    ids = [*reversed(dict.fromkeys(id_ for id_ in found if id_ != user_id)), user_id]
    keys = {merge.key for merge in in_lake if merge.user_id in ids or merge.into in ids}
    for id_ in ids:
        links = store.links(id_)
        keys |= {UserMerge(id_, into, ms).key for ms, into in links.into}
        keys |= {UserMerge(merged, id_, ms).key for ms, merged in links.merged}
    return ids, sorted(keys)
