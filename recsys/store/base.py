"""The online feature store, as its users see it.

One writer a partition (fenced by an epoch), any number of readers. A partition's worker applies a batch of
events, its offset and its watermark in one atomic step, so the effect of each event is exactly once whatever
is killed when. `memory` and `redis` implement it; `tests/recsys/store` has the contract suite of both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.state import Delta, EntityState, History, Visit
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Item
from recsys.features.aggregates import Aggregate


class Folded(Protocol):
    """What one event changes."""

    @property
    def user(self) -> Sequence[Delta]: ...

    @property
    def item(self) -> Sequence[Delta]: ...

    @property
    def visits(self) -> Sequence[tuple[History, Visit]]: ...


class StateDefinition(Protocol):
    """What a store must know of the features: `recsys.features.spec.FeatureSet` is one."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def aggregates(self) -> Sequence[Aggregate]: ...

    @property
    def histories(self) -> Sequence[History]: ...

    def fold(self, event: Event) -> Folded: ...


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Bounds that writers and readers of one store share.

    `dedupe_ms`: event ids are remembered while their event time is within this of the watermark; it must
    exceed the time that a producer may retry. `dedupe_bucket_ms`: ids are forgotten in buckets of this size; an
    id that comes again with another event time is known if the two are no further apart than this.
    `changes`: how many batches of changed items the change stream keeps for readers that were away.
    `idle_ms`: the state of a user or item without events is dropped after so long (wall clock).
    """

    partitions: int = 4
    dedupe_ms: int = MS_PER_DAY
    dedupe_bucket_ms: int = MS_PER_HOUR
    changes: int = 4096
    idle_ms: int = 400 * MS_PER_DAY

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise InvalidConfig(f"partitions: at least 1 is required, got {self.partitions}")
        if not 0 < self.dedupe_bucket_ms <= self.dedupe_ms:
            raise InvalidConfig("dedupe_bucket_ms must be positive and at most dedupe_ms")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one topic partition has been applied.

    `offset` is the next one to apply; `epoch` the writer's fencing token; `watermark_ms` the latest event
    time applied; `log_id` tells one life of the topic from another (an embedded broker forgets everything).
    """

    epoch: int
    offset: int
    watermark_ms: int
    log_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one topic partition, ready to apply.

    `previous` is the position before the first record (compacted logs have holes, so not `first - 1`),
    `next_offset` the position after the last. `events[i]` came from `offsets[i]`; records that were
    dead-lettered have no event but are covered by `next_offset`.
    """

    topic: str
    partition: int
    epoch: int
    previous: int
    next_offset: int
    watermark_ms: int
    offsets: Sequence[int]
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
    duplicates: int = 0  # event ids seen before
    skipped: int = 0  # below the stored offset: a replay


class FeatureStore(Protocol):
    """Thread-safe. Every method may raise `Unavailable`."""

    def ping(self) -> None: ...

    def fingerprint(self) -> str | None:
        """Of the feature definitions that the stored states were made with; None in an empty store."""

    def claim(self, topic: str, partition: int, log_id: str) -> Checkpoint:
        """Become the partition's writer: bumps the epoch. Another `log_id` than stored: offset 0 again."""

    def checkpoint(self, topic: str, partition: int) -> Checkpoint | None:
        """How far the partition has been applied, without claiming it; None before its first claim."""

    def apply(self, batch: Batch) -> Applied:
        """Apply the batch and its offset atomically, each event id once."""

    def workers(self, worker: str, ttl_ms: int) -> list[str]:
        """Say that `worker` lives. Returns the names, sorted, of all that said so within `ttl_ms`."""

    def leave(self, worker: str) -> None:
        """The worker ends: its partitions may be taken over at once."""

    def report(self, worker: str, content: bytes, ttl_ms: int) -> None:
        """What a worker says of itself; forgotten after `ttl_ms`, and when it leaves."""

    def reports(self) -> dict[str, bytes]:
        """The latest report of every worker that has one."""

    def user(self, user_id: str) -> EntityState:
        """One user's state; empty for an unknown user."""

    def history_version(self, user_id: str, history: str) -> str:
        """Changes when the user's history of that name does, or the attributes that were put; the same for equal ones.
        "" when there are neither."""

    def items(self, item_ids: Sequence[str]) -> list[EntityState]:
        """The items' states, merged over partitions, in the order asked."""

    def all_items(self) -> Iterable[tuple[str, EntityState]]:
        """Every item that has state."""

    def changed_items(self, cursor: str, block_ms: int) -> tuple[str, set[str] | None]:
        """Items changed since `cursor` ("" = from now) and the next cursor.

        None instead of a set: the change stream no longer reaches back to the cursor; read `all_items`.
        """

    def forget_user(self, user_id: str) -> bool:
        """Remove every state of the user, and the attributes. True if there was anything."""

    def change_users(self, changes: Sequence[UserChange]) -> None:
        """Replace or delete users' static attributes, in this order. A change older than what is known is ignored.

        Of a deleted user nothing is kept, so the changes before a deletion must not come after it.
        """

    def change_items(self, changes: Sequence[ItemChange]) -> None:
        """Put and delete catalogue entries, in this order. A change older than what is known of its item is ignored.

        Of a deleted item, one of the bundle too, the deletion itself is kept.
        """

    def catalogue(self, item_ids: Sequence[str] | None = None) -> Iterable[tuple[str, Item | None]]:
        """What `change_items` has left, by item id: the entry, or None where it was deleted.

        All of them, or those of `item_ids` that were ever changed.
        """

    def close(self) -> None: ...
