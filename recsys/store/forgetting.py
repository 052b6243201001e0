"""Forget a user: the one path of `recsys users forget` and `DELETE /v1/users/ID`.

The lake is marked first, then the store deletes the user and remembers the digest of the id: what was sent before, and
is read later from a spool or from Kafka, is dropped. `recsys stream compact` applies the mark to the lake.
"""

from pathlib import Path

from recsys.lake.forget import forget_in_lake
from recsys.store.base import FeatureStore


def forget(store: FeatureStore, lake: Path, user_id: str, now_ms: int) -> bool:
    """True if the store had anything of the user. Idempotent; events from after the request count as a new user's."""
    return store.forget_user(user_id, forget_in_lake(lake, user_id, now_ms))
