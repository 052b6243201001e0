"""The online feature store on Redis (or Valkey).

Everything of part p has the hash tag `{p}`, so one script call is atomic on a Cluster, too. There are as many parts as
partitions when the store was made; a topic may have more (`recsys.store.redis_writer`).

    NS:meta                        fingerprint.layout and number of parts, written by the first writer
    NS:workers                     feature workers by their last heartbeat (sorted set)
    NS:worker:<name>               a worker's report; expires
    NS:reporting                   the workers that reported (set)
    NS:{c}:catalogue  :times       items put since the bundle, empty where deleted; when (hashes)
    NS:{p}:cp:TOPIC                checkpoint (hash) of partition p: epoch, offset, watermark, log_id
    NS:{p}:cp:TOPIC@q              the same of another partition q, as far as applied here; {c} has those of items
    NS:{p}:u:USER  NS:{p}:i:ITEM   cells of a user, and this part's share of an item (hashes; `encoding`)
    NS:{p}:a:USER                  static attributes put since the import (hash): attributes, changed_ms
    NS:{p}:h:HISTORY:USER          visits (sorted set by event time)
    NS:{p}:m:USER  NS:{p}:b:USER   the ids merged into a user, and the users that an id is merged into: the first counts
    NS:{p}:users  NS:{p}:items     the users, and the items that have a share here, by when they expire (sorted sets)
    NS:{p}:d:TOPIC:BUCKET          events seen (sets by event time; the sorted set NS:{p}:d:TOPIC lists them)
    NS:{p}:needed:TOPIC            checkpoints by the oldest of these that their partition may still need (sorted set)
    NS:{p}:forgotten               SHA-256 of each forgotten user's id → up to which event time; `version` of them
    NS:{nightly}:u:USER            the user's nightly document (`nightly`); `forget_user` removes it, too
    NS:{p}:changed  :last          the stream of changed items, and its last entry; {c} has one for the catalogue
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from recsys.contracts.changes import UserChange
from recsys.contracts.event_log import partition_of
from recsys.contracts.merges import MAX_MERGED, members
from recsys.contracts.state import EntityState
from recsys.lake.forget import user_digest
from recsys.store.base import StateDefinition, StoreConfig
from recsys.store.damage import Damage
from recsys.store.encoding import StateDecoder
from recsys.store.redis_catalogue import CATALOGUE, PAGE
from recsys.store.redis_changes import SEPARATOR, read_changes
from recsys.store.redis_client import (
    READ_TIMEOUT_S,
    call_each,
    connect,
    redis_errors,
    script,
)
from recsys.store.redis_merges import RedisMerges, nightly_key
from recsys.store.redis_writer import WRONG_TYPE
from recsys.store.union import StateUnion

_SHARES = 250  # items per call of shares.lua, which blocks Redis for half a millisecond
_attributes = msgspec.json.Decoder(dict[str, str]).decode


class RedisFeatureStore(RedisMerges):
    """`FeatureStore` on a Redis server or cluster. `namespace` separates several systems, or tests, on one of them."""

    def __init__(
        self,
        url: str,
        features: StateDefinition,
        config: StoreConfig | None = None,
        namespace: str = "recsys",
        timeout_s: float = READ_TIMEOUT_S,
        damage: Damage | None = None,
        native: bool = False,
    ) -> None:
        """Connects on first use; `timeout_s` is per call; several stores may share a `damage`; `native`: compiled code
        reads the replies of `user` and folds events.
        Raises `InvalidConfig`: the URL is not a Redis URL."""
        config = config or StoreConfig()
        super().__init__(connect(url, timeout_s), features, config, namespace, damage or Damage(), native)
        self._decoder = StateDecoder(features, native)
        self._stored = sorted({h.name for h in self._decoder.stored.values()})
        self._union = StateUnion(features)
        self._put_attributes = self._redis.register_script(script("attributes.lua"))
        self._shares = self._redis.register_script(script("shares.lua"))

    # --- readers ---------------------------------------------------------------------------------------------

    def ping(self) -> None:
        with redis_errors():
            self._redis.ping()

    def fingerprint(self) -> str | None:
        with redis_errors():
            stored = self._redis.hget(self._meta, "fingerprint")
        return stored.decode().partition(".")[0] if stored else None

    def user(self, user_id: str) -> EntityState:
        states: dict[str, EntityState] = {}

        def merged_of(member: str) -> list[str]:
            states[member], merged = self._own_state(member)
            return merged

        members(user_id, merged_of, self._into)
        own = states[user_id]
        if len(states) == 1:  # almost everybody
            return own
        union = self._union.of(states)
        union.attributes = own.attributes
        return union

    def _own_state(self, user_id: str) -> tuple[EntityState, list[str]]:
        """Of this id alone, and the ids merged into it."""
        partition = partition_of(user_id, self._partitions)
        histories = [self._key(partition, "h", history, user_id) for history in self._stored]
        keys = [*(self._key(partition, kind, user_id) for kind in "uam"), *histories]
        with redis_errors():
            replies = self._reads.ask(
                ("HGETALL", keys[0]),
                ("HGET", keys[1], "attributes"),
                ("ZRANGE", keys[2], 0, MAX_MERGED - 1),
                *(("ZRANGE", history, 0, -1, "WITHSCORES") for history in histories),
            )
        cells, attributes, merged, *visits = self._sound(keys, replies)
        state = self._decoder.user(
            self._damage.unless(keys[0], self._decoder.cells, cells or []),
            {
                name: self._damage.unless(key, self._decoder.visits, flat) or ()
                for name, key, flat in zip(self._stored, histories, visits, strict=True)
                if flat
            },
        )
        state.attributes = self._damage.unless(keys[1], _attributes, attributes)
        return state, [id_.decode(errors="replace") for id_ in merged or ()]

    def user_ids(self) -> Iterator[str]:
        """All users with state, in no order, by one scan of all keys: for batch jobs. A scan may repeat keys, so the
        ids are held in memory, some 100 bytes per user."""
        before, between = self._key("*", "u", "").split("*")
        partitions = {str(partition) for partition in range(self._partitions)}
        found: set[str] = set()
        with redis_errors():
            for key in self._redis.scan_iter(f"{before}*{between}*", count=PAGE):
                partition, _, user_id = key.decode().removeprefix(before).partition(between)
                if partition in partitions and user_id not in found:  # the pattern fits other keys as well
                    found.add(user_id)
                    yield user_id

    def history_version(self, user_id: str, history: str) -> str:
        versions: list[str] = []

        def merged_of(member: str) -> list[str]:
            version, merged = self._own_version(member, history)
            versions.append(version)
            return merged

        members(user_id, merged_of, self._into)
        return "+".join(versions)

    def _own_version(self, user_id: str, history: str) -> tuple[str, list[str]]:
        """Of this id alone, and the ids merged into it."""
        partition = partition_of(user_id, self._partitions)
        key = self._key(partition, "h", self._decoder.stored[history].name, user_id)
        attributes, links = self._key(partition, "a", user_id), self._key(partition, "m", user_id)
        oldest = ("ZRANGE", key, 0, 0)  # a late visit drops the oldest of a full history
        with redis_errors():
            replies = self._reads.ask(
                ("ZRANGE", links, 0, MAX_MERGED - 1),
                ("HGET", attributes, "changed_ms"),
                ("ZCARD", key),
                oldest,
                ("ZRANGE", key, -1, -1),
            )
        merged, put_ms, n, *ends = self._sound([links, attributes, key, key, key], replies)
        visits = [
            member.decode(errors="replace").partition(SEPARATOR)[0] for end in ends for member in end or ()
        ]
        version = ":".join((str(n), *visits, put_ms.decode() if put_ms else "")) if n or put_ms else ""
        return version, [id_.decode(errors="replace") for id_ in merged or ()]

    def items(self, item_ids: Sequence[str]) -> list[EntityState]:
        partitions = self._partitions
        states: list[EntityState] = []
        for start in range(0, len(item_ids), _SHARES):
            page = item_ids[start : start + _SHARES]
            keys = [self._key(partition, "i", "") for partition in range(partitions)]
            calls = [([key], [SEPARATOR.join(page)]) for key in keys]
            with redis_errors():
                of_partitions = self._sound(keys, call_each(self._redis, self._shares, calls))
            for partition, shares in enumerate(of_partitions):
                for row, item_id in enumerate(page):
                    if shares[row] == WRONG_TYPE.encode():
                        self._damage.note(self._key(partition, "i", item_id), WRONG_TYPE)
                        shares[row] = []
            states += self._merged(page, of_partitions)
        return states

    def _merged(self, item_ids: Sequence[str], of_partitions: Sequence[list[Any]]) -> list[EntityState]:
        """All items at once; if that fails, each share alone first, to leave out the damaged ones."""
        try:
            return self._decoder.items(zip(*of_partitions, strict=True))
        except ValueError:
            for partition, shares in enumerate(of_partitions):
                for row, item_id in enumerate(item_ids):
                    key = self._key(partition, "i", item_id)
                    if self._damage.unless(key, self._decoder.items, [[shares[row]]]) is None:
                        shares[row] = []
        return self._decoder.items(zip(*of_partitions, strict=True))

    def all_items(self) -> Iterator[tuple[str, EntityState]]:
        found: set[str] = set()
        for partition in range(self._partitions):
            with redis_errors():
                listed = self._redis.zscan_iter(self._key(partition, "items"), count=PAGE)
                found.update(member.decode() for member, _ in listed)
        ordered = sorted(found)
        for start in range(0, len(ordered), PAGE):
            page = ordered[start : start + PAGE]
            for item_id, state in zip(page, self.items(page), strict=True):
                if state.cells:
                    yield item_id, state

    def changed_items(self, cursor: str, block_ms: int) -> tuple[str, set[str] | None]:
        streams = [self._key(tag, "changed") for tag in (*range(self._partitions), CATALOGUE)]
        return read_changes(self._redis, streams, cursor, block_ms)

    # --- changes of users --------------------------------------------------------------------------

    def forget_user(self, user_id: str, until_ms: int = 0) -> bool:
        partition = partition_of(user_id, self._partitions)
        histories = [self._key(partition, "h", history, user_id) for history in self._stored]
        with redis_errors(), self._redis.pipeline(transaction=True) as pipe:
            if until_ms:
                self._marks.add(pipe, partition, user_id, until_ms)
                pipe.execute()
            self._unlink(user_id)  # not after the links are gone, which say where else the id is
            pipe.unlink(self._key(partition, "u", user_id), self._key(partition, "a", user_id), *histories)
            pipe.unlink(self._key(partition, "m", user_id), self._key(partition, "b", user_id))
            pipe.zrem(self._key(partition, "users"), user_id)
            state, _, _ = pipe.execute()
            document = self._redis.unlink(nightly_key(self._namespace, "u", user_id))  # in another slot
        return bool(state or document)

    def change_users(self, changes: Sequence[UserChange]) -> None:
        if not changes:
            return
        parts = self._partitions
        partitions = [partition_of(c.user_id, parts) for c in changes]
        keys = [self._key(p, "a", c.user_id) for p, c in zip(partitions, changes, strict=True)]
        calls = []
        for partition, key, change in zip(partitions, keys, changes, strict=True):
            put = b"" if change.user is None else msgspec.json.encode(change.user.attributes)
            arguments = [change.changed_ms, put, self._config.idle_ms, user_digest(change.user_id)]
            calls.append(([key, self._key(partition, "forgotten")], arguments))
        with redis_errors():
            self._sound(keys, call_each(self._redis, self._put_attributes, calls))

    def damaged(self) -> tuple[str, ...]:
        return self._damage.found()

    def close(self) -> None:
        self._reads.close()
        self._redis.close()
