"""The online feature store in memory: the reference of the contract, for tests and simulations. It prunes nothing."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import FingerprintMismatch, InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.merges import Links, UserMerge, linked_members, links_of
from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from recsys.lake.forget import is_forgotten, user_digest
from recsys.lake.merges import remembered
from recsys.store.base import Applied, Batch, Checkpoint, Outcome, StateDefinition, StoreConfig
from recsys.store.union import StateUnion


class MemoryFeatureStore:
    """`FeatureStore` in memory; thread-safe by one lock."""

    def __init__(
        self,
        features: StateDefinition,
        config: StoreConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds, for heartbeats."""
        self._features = features
        self._union = StateUnion(features)
        self._clock = clock
        self._config = config or StoreConfig()
        self._lock = threading.Condition()
        self._fingerprint: str | None = None
        self._checkpoints: dict[tuple[str, int], Checkpoint] = {}
        self._seen = set[tuple[str, str]]()
        self._counted = set[bytes]()  # keys of `Once`
        self._workers: dict[str, float] = {}
        self._reports: dict[str, tuple[bytes, float]] = {}  # → report, and when it expires
        self._users: dict[str, EntityState] = {}
        self._items: dict[str, EntityState] = {}
        self._attributes: dict[
            str, tuple[int, Mapping[str, str]]
        ] = {}  # of users: when they were put, and what
        self._merges: list[UserMerge] = []
        self._links: dict[str, Links] = {}
        self._forgotten: dict[str, int] = {}  # digest of the user's id → up to which event time
        self._catalogue: dict[str, Item | None] = {}
        self._changed_ms: dict[str, int] = {}  # when each entry was changed
        self._changes: list[set[str]] = []
        self._trimmed = 0  # number of changes dropped before the first of `_changes`

    def ping(self) -> None:
        pass

    def fingerprint(self) -> str | None:
        return self._fingerprint

    def claim(self, topic: str, partition: int, log_id: str) -> Checkpoint:
        with self._lock:
            if self._fingerprint not in (None, self._features.fingerprint):
                raise FingerprintMismatch("the store holds states of other feature definitions")
            self._fingerprint = self._features.fingerprint
            if partition >= self._config.partitions and (topic, partition) not in self._checkpoints:
                raise InvalidConfig(
                    f"{topic}/{partition} was added to the topic: run `recsys topics grow N` with the number of "
                    "partitions that it has now"
                )
            old = self._checkpoints.get((topic, partition), Checkpoint(0, 0, 0, log_id))
            offset = old.offset if old.log_id == log_id else 0
            epoch = max(old.epoch + 1, time.time_ns() // 1_000_000)
            new = self._checkpoints[topic, partition] = Checkpoint(epoch, offset, old.watermark_ms, log_id)
            return new

    def add_partition(self, topic: str, partition: int, log_id: str, watermark_ms: int) -> bool:
        with self._lock:
            added = (topic, partition) not in self._checkpoints
            self._checkpoints.setdefault((topic, partition), Checkpoint(0, 0, watermark_ms, log_id))
            return added

    def checkpoint(self, topic: str, partition: int) -> Checkpoint | None:
        with self._lock:
            return self._checkpoints.get((topic, partition))

    def apply(self, batch: Batch) -> Applied:
        with self._lock:
            place = (batch.topic, batch.partition)
            stored = self._checkpoints.get(place, Checkpoint(0, 0, 0, ""))
            if stored.epoch != batch.epoch:
                return Applied(Outcome.FENCED, stored.offset)
            if batch.previous > stored.offset:
                return Applied(Outcome.GAP, stored.offset)
            seen, changed = self._seen, set[str]()
            applied = duplicates = skipped = 0
            for offset, event in zip(batch.offsets, batch.events, strict=True):
                gone = is_forgotten(self._forgotten, event.user_id, event.event_time_ms)
                if offset < stored.offset or gone:
                    skipped += 1
                elif event.key in seen:
                    duplicates += 1
                else:
                    seen.add(event.key)
                    applied += 1
                    if self._fold(event):
                        changed.add(event.item_id)
            self._announce(changed)
            offset = max(stored.offset, batch.next_offset)
            watermark = max(stored.watermark_ms, batch.watermark_ms)
            self._checkpoints[place] = Checkpoint(stored.epoch, offset, watermark, stored.log_id)
            return Applied(Outcome.APPLIED, offset, applied, duplicates, skipped)

    def _fold(self, event: Event) -> bool:
        """True if the item's state changed."""
        folded = self._features.fold(event)
        if folded.user or folded.visits:
            user = self._users.setdefault(event.user_id, EntityState())
            for delta in folded.user:
                user.change(delta)
            for history, visit in folded.visits:
                user.visit(history, visit)
        if changes := folded.of_item(self._counted):
            item = self._items.setdefault(event.item_id, EntityState())
            for delta in changes:
                item.change(delta)
        return bool(changes)

    def workers(self, worker: str, ttl_ms: int) -> list[str]:
        with self._lock:
            now = self._clock()
            self._workers[worker] = now
            self._workers = {name: at for name, at in self._workers.items() if at > now - ttl_ms / 1_000}
            return sorted(self._workers)

    def leave(self, worker: str) -> None:
        with self._lock:
            self._workers.pop(worker, None)
            self._reports.pop(worker, None)

    def report(self, worker: str, content: bytes, ttl_ms: int) -> None:
        with self._lock:
            self._reports[worker] = (content, self._clock() + ttl_ms / 1_000)

    def reports(self) -> dict[str, bytes]:
        with self._lock:
            now = self._clock()
            return {name: content for name, (content, until) in self._reports.items() if until > now}

    def user(self, user_id: str) -> EntityState:
        with self._lock:
            put = self._attributes.get(user_id)
            states = {member: _copy(self._users.get(member)) for member in self._members(user_id)}
            state = self._union.of(states) if len(states) > 1 else states[user_id]
            state.attributes = put and put[1]
            return state

    def history_version(self, user_id: str, history: str) -> str:
        with self._lock:
            return "+".join([self._version(member, history) for member in self._members(user_id)])

    def _version(self, user_id: str, history: str) -> str:
        visits = self._users.get(user_id, EntityState()).histories.get(history, [])
        put = self._attributes.get(user_id)
        ends = [visit.event_id for visit in (*visits[:1], *visits[-1:])]
        return ":".join((str(len(visits)), *ends, str(put[0]) if put else "")) if visits or put else ""

    def _members(self, user_id: str) -> list[str]:
        return linked_members(user_id, lambda id_: self._links.get(id_, Links()))

    def links(self, user_id: str) -> Links:
        with self._lock:
            return self._links.get(user_id, Links())

    def items(self, item_ids: Sequence[str]) -> list[EntityState]:
        with self._lock:
            return [_copy(self._items.get(item_id)) for item_id in item_ids]

    def all_items(self) -> Iterator[tuple[str, EntityState]]:
        with self._lock:
            items = [(item_id, _copy(state)) for item_id, state in sorted(self._items.items())]
        yield from items

    def changed_items(self, cursor: str, block_ms: int) -> tuple[str, set[str] | None]:
        with self._lock:
            if not cursor:
                return str(self._trimmed + len(self._changes)), set()
            self._lock.wait_for(lambda: len(self._changes) > int(cursor) - self._trimmed, block_ms / 1000)
            first = int(cursor) - self._trimmed
            now = str(self._trimmed + len(self._changes))
            return now, None if first < 0 else set().union(*self._changes[first:])

    def _announce(self, item_ids: set[str]) -> None:
        if item_ids:
            self._changes.append(item_ids)
            surplus = len(self._changes) - self._config.changes
            if surplus > 0:
                del self._changes[:surplus]
                self._trimmed += surplus
            self._lock.notify_all()

    def forget_user(self, user_id: str, until_ms: int = 0) -> bool:
        with self._lock:
            if until_ms:
                self._forgotten[user_digest(user_id)] = until_ms
            state, put = self._users.pop(user_id, None), self._attributes.pop(user_id, None)
            self._set_merges(m for m in self._merges if user_id not in (m.user_id, m.into))
            return not (state is None and put is None)

    def merge_users(self, merges: Sequence[UserMerge]) -> None:
        with self._lock:
            self._set_merges([*self._merges, *remembered(merges, self._forgotten)])

    def _set_merges(self, merges: Iterable[UserMerge]) -> None:
        self._merges = [*merges]
        self._links = links_of(self._merges)

    def change_users(self, changes: Sequence[UserChange]) -> None:
        with self._lock:
            for change in changes:
                if change.changed_ms < self._attributes.get(change.user_id, (0, {}))[0]:
                    continue
                if is_forgotten(self._forgotten, change.user_id, change.changed_ms):
                    continue
                if change.user is None:
                    self._attributes.pop(change.user_id, None)
                else:
                    self._attributes[change.user_id] = change.changed_ms, dict(change.user.attributes)

    def change_items(self, changes: Sequence[ItemChange]) -> None:
        with self._lock:
            changed: set[str] = set()
            for change in changes:
                known = self._changed_ms.get(change.item_id, -1), self._catalogue.get(change.item_id)
                if change.changed_ms >= known[0] and (change.changed_ms, change.item) != known:
                    self._changed_ms[change.item_id] = change.changed_ms
                    self._catalogue[change.item_id] = change.item
                    changed.add(change.item_id)
            if changed:
                self._announce(changed)

    def catalogue(self, item_ids: Sequence[str] | None = None) -> Iterator[tuple[str, Item | None]]:
        with self._lock:
            wanted = self._catalogue if item_ids is None else item_ids
            entries = [(i, self._catalogue[i]) for i in wanted if i in self._catalogue]
        yield from entries

    def damaged(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


def _copy(state: EntityState | None) -> EntityState:
    if state is None:
        return EntityState()
    return EntityState(dict(state.cells), {name: list(visits) for name, visits in state.histories.items()})
