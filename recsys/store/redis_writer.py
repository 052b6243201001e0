"""The writer's part of the online store: claims and batches, each applied by one script call in each part of the store.

A store has as many parts as it was made with partitions, each with a hash tag of its own; a user is in part
`partition_of(user_id, parts)` permanently. A topic may have got more partitions since, and a producer may have put a
record anywhere. So a batch of log partition p may have events of several parts:

1. Its *home* is part p modulo their number: the offset there is the partition's. In each other part it is *away*, with
   a checkpoint of its own: offset, watermark and epoch are written together with the states there, as at home.
2. `apply` writes the parts that are away first, and home last. What is away has the offset of home; a later one after
   a crash in between; or one that is some `_BEHIND_S` older, when nothing came for it.
3. `claim` starts at the oldest of these offsets, with the watermark from there: no part misses a record, whatever was
   lost, and each skips what it has.

With as many partitions as parts, and Kafka's partitioner, all events are at home, and a batch is one script call.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys.contracts.errors import FingerprintMismatch, InvalidConfig, InvalidData
from recsys.contracts.event_log import remembered_partition_of
from recsys.contracts.types import Topic
from recsys.store.base import Applied, Batch, Checkpoint, Outcome, StateDefinition, StoreConfig
from recsys.store.damage import Damage
from recsys.store.encoding import BatchEncoder, KeyedEvent, keyed
from recsys.store.redis_catalogue import CATALOGUE, RedisCatalogue
from recsys.store.redis_client import is_wrong_type, redis_errors, refuse_eviction, script
from recsys.store.redis_forgotten import ForgottenMarks

# Of keys and values. 1 had cells by name, 2 event ids without their user, 3 an unordered set of items.
_LAYOUT = 4
WRONG_TYPE = "WRONGTYPE"  # also what shares.lua answers for such a share
_BEHIND_S = 1.0


@dataclass(slots=True)
class _Away:
    """How far a log partition was applied in a part that is not its home, and when that was written (monotonic)."""

    offset: int
    written: float


class RedisWriter(RedisCatalogue):
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
        super().__init__(client, namespace, config.changes, damage)
        self._fingerprint = f"{features.fingerprint}.{_LAYOUT}"
        self._config = config
        self._encoder = BatchEncoder(features, config, native)
        self._meta = f"{namespace}:meta"
        self._made_with: int | None = None  # partitions; None: the store was empty when it was last asked
        self._marks = ForgottenMarks(client, lambda part: self._key(part, "forgotten"))
        self._away: dict[tuple[str, int], dict[int | str, _Away]] = {}
        self._claim = client.register_script(script("claim.lua"))
        self._apply = client.register_script(script("apply.lua"))

    def claim(self, topic: str, partition: int, log_id: str) -> Checkpoint:
        parts = self._register()
        home = self._home(topic, partition)
        others = [] if home == CATALOGUE else [part for part in range(parts) if part != home]
        with redis_errors():
            refuse_eviction(self._redis)
            with self._redis.pipeline(transaction=False) as pipe:
                for part in others:
                    pipe.exists(self._checkpoint(topic, partition, part))
                there = [part for part, exists in zip(others, pipe.execute(), strict=True) if exists]
        found = [self._claim_part(topic, partition, home, log_id)]
        found += [self._claim_part(topic, partition, part, log_id, found[0].epoch) for part in there]
        self._away[topic, partition] = {
            part: _Away(stored.offset, 0.0) for part, stored in zip(there, found[1:], strict=True)
        }
        first = min(found, key=lambda stored: stored.offset)
        return replace(first, epoch=found[0].epoch)

    def add_partition(self, topic: str, partition: int, log_id: str, watermark_ms: int) -> bool:
        self._register()
        home = self._home(topic, partition)
        if self.checkpoint(topic, partition) is not None:
            return False
        begin = Checkpoint(0, 0, watermark_ms, log_id)
        epoch = self._claim_part(topic, partition, home, log_id, begin=begin).epoch
        self._apply_part(Batch(topic, partition, epoch, 0, 0, watermark_ms, (), ()), home, [])
        return True

    def checkpoint(self, topic: str, partition: int) -> Checkpoint | None:
        key = self._checkpoint(topic, partition, self._home(topic, partition))
        with redis_errors():
            epoch, offset, watermark, log_id = self._redis.hmget(
                key, "epoch", "offset", "watermark", "log_id"
            )
        return Checkpoint(int(epoch), int(offset), int(watermark), log_id.decode()) if epoch else None

    def apply(self, batch: Batch) -> Applied:
        parts, home = self._partitions, self._home(batch.topic, batch.partition)
        rows: dict[int | str, list[KeyedEvent]] = {}
        for row in keyed(batch):
            user = row.event.user_id  # none: the state of an item, from a backfill
            rows.setdefault(remembered_partition_of(user, parts) if user else home, []).append(row)
        away = self._away.setdefault((batch.topic, batch.partition), {})
        now = time.monotonic()
        due = {part for part, where in away.items() if now - where.written >= _BEHIND_S}
        done = []
        for part in sorted((rows.keys() | due) - {home}, key=str):
            if part not in away:
                begin = Checkpoint(0, batch.previous, batch.watermark_ms, "")
                log_id = self._log_id(batch, home)
                stored = self._claim_part(batch.topic, batch.partition, part, log_id, batch.epoch, begin)
                if stored.epoch != batch.epoch:
                    return Applied(Outcome.FENCED, stored.offset)
                away[part] = _Away(stored.offset, now)
            theirs = replace(batch, previous=min(batch.previous, away[part].offset))
            done.append(self._apply_part(theirs, part, rows.get(part, [])))
            if done[-1].outcome is not Outcome.APPLIED:
                return done[-1]
            away[part] = _Away(done[-1].offset, now)
        at_home = self._apply_part(batch, home, rows.get(home, []))
        return _sum(at_home, done) if done else at_home

    def _apply_part(self, batch: Batch, part: int | str, rows: list[KeyedEvent]) -> Applied:
        """Apply the events of one part, and the batch's offset."""
        skipped, seen = 0, set[bytes]()
        keys, prefix = [self._checkpoint(batch.topic, batch.partition, part)], self._key(part, "")
        while True:
            left, version = self._marks.without(part, rows)
            skipped += len(rows) - len(left)
            rows = left
            fresh: dict[bytes, KeyedEvent] = {}
            for row in rows:  # the first of equal ids, in the order of offsets
                if row.key not in seen:
                    fresh.setdefault(row.key, row)
            encoded = self._encoder.encode(batch, list(fresh.values()), self._partitions, version)
            with redis_errors():
                outcome, offset, *named = self._apply(keys, [prefix, str(batch.topic), *encoded])
            if outcome == b"behind":  # a replay
                later = [row for row in rows if row.offset >= offset]
                skipped += len(rows) - len(later)
                rows = later
            elif outcome == b"forgotten":
                self._marks.read(part)
            elif outcome == b"known":  # sent twice
                seen.update(named)
            else:
                break
        if outcome != b"applied":
            return Applied(Outcome(outcome.decode()), offset)
        for key in named:
            self._damage.note(key.decode(), WRONG_TYPE)
        return Applied(Outcome.APPLIED, offset, len(fresh), len(rows) - len(fresh), skipped)

    def _claim_part(
        self,
        topic: str,
        partition: int,
        part: int | str,
        log_id: str,
        epoch: int | None = None,
        begin: Checkpoint | None = None,
    ) -> Checkpoint:
        """`epoch`: of the claim at home; None: a new one. `begin`: where there is no checkpoint. The epoch of what is
        returned is 0 if a later claimant was there."""
        names = [("d", topic), ("items",), ("changed",), ("changed", "last"), ("probe",)]
        keys = [self._checkpoint(topic, partition, part), *(self._key(part, *name) for name in names)]
        if isinstance(part, int) and part != partition:
            keys.append(self._checkpoint(topic, part, part))
        start = ("", "") if begin is None else (begin.offset, begin.watermark_ms)
        with redis_errors():
            claimed = self._claim(keys, [log_id, "" if epoch is None else epoch, *start])
        if claimed == [b"lost"]:
            raise InvalidData(
                f"the store {self._namespace} has states of {topic}/{partition}, but no offset: from offset 0 each"
                " event would count twice; rebuild it in another namespace: recsys features backfill --namespace"
                " NAME, then set RECSYS_REDIS_NAMESPACE=NAME"
            )
        if claimed == [b"unknown"]:
            raise InvalidConfig(
                f"the store {self._namespace} does not know partition {topic}/{partition}, which was added to the "
                "topic: run `recsys topics grow N` with the number of partitions that it has now"
            )
        if claimed == [b"fenced"]:
            return Checkpoint(0, 0, 0, log_id)
        claimed_epoch, offset, watermark_ms = claimed
        return Checkpoint(claimed_epoch, offset, watermark_ms, log_id)

    def _log_id(self, batch: Batch, home: int | str) -> str:
        with redis_errors():
            found = self._redis.hget(self._checkpoint(batch.topic, batch.partition, home), "log_id")
        return found.decode() if found else ""

    def _home(self, topic: str, partition: int) -> int | str:
        """The part of the partition's offset. For items it is the catalogue, which their changes go to: a failover of
        a node of a Cluster takes back both."""
        return CATALOGUE if topic == Topic.ITEMS else partition % self._partitions

    def _checkpoint(self, topic: str, partition: int, part: int | str) -> str:
        return self._key(part, "cp", topic if partition == part else f"{topic}@{partition}")

    @property
    def _partitions(self) -> int:
        """The parts of the store: as many as the partitions that it was made with. Raises `FingerprintMismatch`."""
        return self._check() or self._config.partitions

    def _register(self) -> int:
        """The first writer decides fingerprint and parts; a later one must have the fingerprint. Returns the parts.
        Raises `FingerprintMismatch`: the states are of other feature definitions."""
        with redis_errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(self._meta, "fingerprint", self._fingerprint)
            pipe.hsetnx(self._meta, "partitions", self._config.partitions)
            pipe.execute()
        self._made_with = None  # ask: the namespace may have been deleted, and made again with others
        return self._partitions

    def _check(self) -> int | None:
        """The parts; None: the store is empty, which fits all definitions, and is asked again next time."""
        made_with = self._made_with
        if made_with is None:
            with redis_errors():
                fingerprint, partitions = self._redis.hmget(self._meta, "fingerprint", "partitions")
            if fingerprint is None:
                return None
            if fingerprint.decode() != self._fingerprint:
                raise FingerprintMismatch(
                    f"the store {self._namespace} holds states of the feature definitions "
                    f"{fingerprint.decode()}, this process has {self._fingerprint} (after the dot: the layout of the "
                    "store); use another namespace and replay the log into it, or the lake: recsys features backfill"
                )
            made_with = self._made_with = int(partitions)
        return made_with

    def _sound(self, keys: Sequence[str], replies: Sequence[Any]) -> list[Any]:
        """The replies, None for a key of another type, which is noted. Raises the first other error."""
        found = []
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, Exception):
                if not is_wrong_type(reply):
                    raise reply
                self._damage.note(key, WRONG_TYPE)
                reply = None
            found.append(reply)
        return found


def _sum(last: Applied, others: Iterable[Applied]) -> Applied:
    every = [*others, last]
    return Applied(
        last.outcome,
        last.offset,
        sum(a.applied for a in every),
        sum(a.duplicates for a in every),
        sum(a.skipped for a in every),
    )
