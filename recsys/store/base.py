"""The contract of the online feature store.

A partition has one writer, fenced by an epoch, and any number of readers. The writer applies a batch of events, its
offset and its watermark in one atomic step, so each event takes effect exactly once, whichever process is killed
when. `memory` and `redis` implement the contract; `tests/contract/test_feature_store.py` runs on both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.merges import Links, UserMerge
from recsys.contracts.state import EntityState, History
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Item
from recsys.features.aggregates import Aggregate
from recsys.features.feature_set import Folded


class StateDefinition(Protocol):
    """What a store must know of the features; `FeatureSet` implements it."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def aggregates(self) -> Sequence[Aggregate]: ...

    @property
    def histories(self) -> Sequence[History]: ...

    def fold(self, event: Event) -> Folded: ...


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Bounds that writers and readers of one store share. `partitions`: of the topics, when the store is made; one that
    exists keeps the number that it was made with."""

    partitions: int = 4
    # event ids are remembered while their event time is this close to the watermark: longer than producers retry
    dedupe_ms: int = MS_PER_DAY
    # ids expire in buckets of this size; a retry with another event time is recognised up to this difference
    dedupe_bucket_ms: int = MS_PER_HOUR
    changes: int = 4096  # batches of changed items in the change stream, for readers that were away
    idle_ms: int = 400 * MS_PER_DAY  # wall clock; state of a user or item without events expires after it
    new_idle_ms: int = (
        30 * MS_PER_DAY
    )  # the same for one of fewer cells than `new_cells`, such as a made-up id
    new_cells: int = 8
    # of all users, and of the items that have a share in a part; beyond them, the next to expire go first
    max_users: int = 20_000_000
    max_items: int = 2_000_000

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise InvalidConfig(f"partitions: at least 1 is required, got {self.partitions}")
        if not (0 < self.new_idle_ms <= self.idle_ms and self.max_users > 0 and self.max_items > 0):
            raise InvalidConfig(
                "new_idle_ms must be positive and at most idle_ms; max_users, max_items positive"
            )
        if not 0 < self.dedupe_bucket_ms <= self.dedupe_ms:
            raise InvalidConfig("dedupe_bucket_ms must be positive and at most dedupe_ms")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one topic partition has been applied."""

    epoch: int  # the writer's fencing token
    offset: int  # the next one to apply
    watermark_ms: int  # the latest event time applied
    log_id: str  # of the topic: another one if it was deleted and created again


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one topic partition, ready to apply. Dead-lettered records have no event."""

    topic: str
    partition: int
    epoch: int
    previous: int  # the position before the first record; compacted logs have gaps, so not `offsets[0] - 1`
    next_offset: int  # the position after the last record
    watermark_ms: int
    offsets: Sequence[int]  # of `events`
    events: Sequence[Event]


class Outcome(StrEnum):
    APPLIED = "applied"
    FENCED = "fenced"  # another worker has claimed the partition: claim again
    GAP = "gap"  # records between the stored offset and `previous` are missing: seek back


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of `apply`. `offset` is the stored offset afterwards."""

    outcome: Outcome
    offset: int
    applied: int = 0
    duplicates: int = 0  # of events seen before: equal in user and event id
    skipped: int = 0  # below the stored offset: a replay


class FeatureStore(Protocol):
    """Thread-safe. Every method but `damaged` and `close` may raise `Unavailable`."""

    def ping(self) -> None: ...

    def fingerprint(self) -> str | None:
        """The fingerprint of the definitions that the stored states were made with; None in an empty store."""

    def claim(self, topic: str, partition: int, log_id: str) -> Checkpoint:
        """Become the partition's writer with a new epoch. A `log_id` other than the stored one resets the offset.
        Raises `InvalidConfig`: the store may evict states. Raises `InvalidData`: it has states without an offset."""

    def checkpoint(self, topic: str, partition: int) -> Checkpoint | None:
        """How far the partition has been applied, without claiming it; None before its first claim."""

    def add_partition(self, topic: str, partition: int, log_id: str, watermark_ms: int) -> bool:
        """A partition that a topic has got since the store was made: to be read from offset 0, with this watermark.
        Without effect, and False, if the store knows the partition. A claim of one that it does not know raises
        `InvalidConfig`."""

    def apply(self, batch: Batch) -> Applied:
        """Apply the batch and its offset, each event (user, event id) once. Users of any partition may be in it. A
        reader may see some users' events before others', and a crash in between makes the next claim start earlier."""

    def workers(self, worker: str, ttl_ms: int) -> list[str]:
        """Send a heartbeat. Returns the names, sorted, of all workers whose heartbeat is younger than `ttl_ms`."""

    def leave(self, worker: str) -> None:
        """Sign off: the worker's partitions may be taken over at once."""

    def report(self, worker: str, content: bytes, ttl_ms: int) -> None:
        """Publish a worker's status for `ttl_ms`, or until it leaves."""

    def reports(self) -> dict[str, bytes]:
        """The latest report of each worker."""

    def user(self, user_id: str) -> EntityState:
        """One user's state, the union of the states of all `members`; empty for an unknown user. The attributes are the
        user's own."""

    def history_version(self, user_id: str, history: str) -> str:
        """A value that changes with the user's history of that name, the attributes and the members; "" without any."""

    def links(self, user_id: str) -> Links:
        """The merges that the id is part of."""

    def items(self, item_ids: Sequence[str]) -> list[EntityState]:
        """The items' states, merged over partitions, in the order of `item_ids`."""

    def all_items(self) -> Iterable[tuple[str, EntityState]]:
        """Every item that has state."""

    def changed_items(self, cursor: str, block_ms: int) -> tuple[str, set[str] | None]:
        """The next cursor, and the items changed since `cursor` ("" = from now). None instead of a set: the change
        stream no longer reaches back to the cursor; read `all_items`."""

    def forget_user(self, user_id: str, until_ms: int = 0) -> bool:
        """Remove all states, attributes and merges of this id. True if it had a state or attributes. What is applied
        later, but is stamped up to `until_ms`, was under way and is dropped; only the digest of the id remains for
        that."""

    def change_users(self, changes: Sequence[UserChange]) -> None:
        """Replace or delete users' static attributes, in this order. A change older than the stored one is ignored.
        Nothing remains of a deleted user, so changes from before a deletion must not come after it."""

    def merge_users(self, merges: Sequence[UserMerge]) -> None:
        """Let ids belong to users (`recsys.contracts.merges`), in any order, any number of times. No state is moved."""

    def change_items(self, changes: Sequence[ItemChange]) -> None:
        """Put and delete catalogue entries, in this order. A change older than the item's stored one is ignored. The
        deletion of an item is stored, also of an item of the bundle."""

    def catalogue(self, item_ids: Sequence[str] | None = None) -> Iterable[tuple[str, Item | None]]:
        """The entries that `change_items` stored, of all items or of `item_ids`; None for a deleted one."""

    def damaged(self) -> Sequence[str]:
        """The states that this client found unreadable and skipped, by key; the first thousand."""

    def close(self) -> None: ...
