"""Merged users in Redis: which ids belong to a user, under NS:{p}:m:USER and NS:{p}:b:USER.

The two ids of a merge may be in two slots, so each has its side of it, in a sorted set by when it was merged. A reader
takes an id for a user's if both sides say so: half of a merge is none.
"""

from collections.abc import Sequence
from typing import Any

from recsys.contracts.event_log import partition_of
from recsys.contracts.merges import Links, UserMerge
from recsys.lake.forget import user_digest
from recsys.lake.merges import remembered
from recsys.store.base import StateDefinition, StoreConfig
from recsys.store.damage import Damage
from recsys.store.redis_client import call_each, redis_errors, script
from recsys.store.redis_reads import open_reads
from recsys.store.redis_writer import RedisWriter

_MERGED, _INTO = "m", "b"  # in keys
_AT_ONCE = 1_000  # merges of one pipeline


class RedisMerges(RedisWriter):
    """This part of a `FeatureStore`."""

    def __init__(
        self,
        client: Any,
        features: StateDefinition,
        config: StoreConfig,
        namespace: str,
        damage: Damage,
        native: bool,
    ) -> None:
        super().__init__(client, features, config, namespace, damage, native)
        self._reads = open_reads(client)
        self._merge = client.register_script(script("merge.lua"))

    def links(self, user_id: str) -> Links:
        keys = [self._side(_INTO, user_id), self._side(_MERGED, user_id)]
        with redis_errors():
            replies = self._reads.ask(*(("ZRANGE", key, 0, -1, "WITHSCORES") for key in keys))
        into, merged = (
            tuple((int(ms), id_.decode()) for id_, ms in zip(flat[::2], flat[1::2], strict=True))
            for flat in (found or () for found in self._sound(keys, replies))
        )
        return Links(into, merged)

    def _into(self, user_id: str) -> str | None:
        """The user that an id belongs to."""
        key = self._side(_INTO, user_id)
        with redis_errors():
            [into] = self._sound([key], self._reads.ask(("ZRANGE", key, 0, 0)))
        return into[0].decode(errors="replace") if into else None

    def merge_users(self, merges: Sequence[UserMerge]) -> None:
        """The user's side is written first: of one that was forgotten since, nothing is. A crash in between is no harm:
        the writer repeats the merge, and until then the id does not say that it belongs to the user."""
        for first in range(0, len(merges), _AT_ONCE):
            some = self._remembered(merges[first : first + _AT_ONCE])
            left = self._link(_MERGED, [(m, m.into, m.user_id) for m in some])
            linked = set(self._link(_INTO, [(m, m.user_id, m.into) for m in left]))
            for merge in left:
                if merge not in linked:  # the id was forgotten in the meantime
                    with redis_errors():
                        self._redis.zrem(self._side(_MERGED, merge.into), merge.user_id)

    def _remembered(self, merges: Sequence[UserMerge]) -> list[UserMerge]:
        """Those of ids that were not forgotten since: an old merge must not touch a later one of the same ids."""
        ids = sorted({id_ for merge in merges for id_ in (merge.user_id, merge.into)})
        digests = [user_digest(id_) for id_ in ids]
        with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
            for id_, digest in zip(ids, digests, strict=True):
                pipe.hget(self._key(partition_of(id_, self._partitions), "forgotten"), digest)
            marks = pipe.execute()
        known = {digest: int(mark) for digest, mark in zip(digests, marks, strict=True) if mark}
        return remembered(merges, known)

    def _link(self, kind: str, sides: Sequence[tuple[UserMerge, str, str]]) -> list[UserMerge]:
        """Write one side of each merge: its id, and the other. Returns the merges whose id was not forgotten."""
        calls = []
        for merge, user_id, other in sides:
            part = partition_of(user_id, self._partitions)
            keys = [self._key(part, kind, user_id), self._key(part, "forgotten")]
            arguments = [merge.changed_ms, other, self._config.idle_ms, user_digest(user_id)]
            calls.append((keys, arguments))
        with redis_errors():
            replies = self._sound([keys[0] for keys, _ in calls], call_each(self._redis, self._merge, calls))
        return [merge for (merge, *_), reply in zip(sides, replies, strict=True) if reply]

    def _unlink(self, user_id: str) -> None:
        """Remove the id from the links of others, and the nightly documents that have its history, too."""
        owners = [user_id]
        while (owner := self._into(owners[-1])) is not None and owner not in owners:
            owners.append(owner)
        for owner in owners[1:]:
            self._redis.unlink(nightly_key(self._namespace, "u", owner))
        links = self.links(user_id)
        for _, into in links.into:
            self._redis.zrem(self._side(_MERGED, into), user_id)
        for _, merged in links.merged:
            self._redis.zrem(self._side(_INTO, merged), user_id)

    def _side(self, kind: str, user_id: str) -> str:
        return self._key(partition_of(user_id, self._partitions), kind, user_id)


def nightly_key(namespace: str, *parts: str) -> str:
    """A key of `recsys.store.nightly`."""
    return f"{namespace}:{{nightly}}:{':'.join(parts)}"
