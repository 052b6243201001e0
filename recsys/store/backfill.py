"""Load whole states into an empty store, by the same atomic script that applies events.

States are a monoid, so a state folds as an event does: under the feature definition `StateFold`, an event stands for a
whole state. Event ids make loading idempotent: a state that was loaded before is a duplicate.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import MAX_TIME_MS, Event
from recsys.contracts.state import Delta, EntityState, History
from recsys.contracts.types import MS_PER_DAY, EventType, Topic
from recsys.features.aggregates import Aggregate, Entity, parse_cell
from recsys.features.feature_set import Folded
from recsys.store.base import Applied, Batch, FeatureStore, Outcome, StateDefinition

TOPIC = "backfill"
_DONE = 1  # the offset of TOPIC once everything is loaded
_CELLS_PER_CALL = 2_000  # a script blocks the server: a few milliseconds
_IDS_PER_CALL = 500
T = TypeVar("T")


class StateRow(NamedTuple):
    """The state of one user or item from everything before the backfill's end."""

    entity: Entity
    id: str
    state: EntityState
    latest_ms: int  # the latest event time in it


@dataclass(frozen=True)
class Covered:
    """Where a topic partition of the log continues after the lake, and its watermark there. A watermark of 0 with an
    offset is unknown to the lake; the latest event time of the partition's users replaces it."""

    topic: Topic
    partition: int
    log_id: str
    offset: int
    watermark_ms: int = 0


class StateFold:
    """`StateDefinition` for loading: `stand_in` gives an event whose fold, once, is the state."""

    def __init__(self, features: StateDefinition) -> None:
        self.fingerprint: str = features.fingerprint
        self._fold = features.fold
        self.aggregates: Sequence[Aggregate] = features.aggregates
        self.histories: Sequence[History] = features.histories
        self._aggregate = {(a.entity, a.name): a for a in features.aggregates}
        self._waiting: dict[str, Folded] = {}

    def stand_in(self, row: StateRow) -> Event:
        deltas = [self._delta(row.entity, cell, amount) for cell, amount in row.state.cells.items()]
        visits = [(h, v) for h in self.histories for v in row.state.histories.get(h.name, ())]
        is_user = row.entity is Entity.USER
        event_id = f"{TOPIC} {row.entity} {row.id}"
        self._waiting[event_id] = Folded(deltas, [], visits) if is_user else Folded([], deltas, [])
        user, item = (row.id, "") if is_user else ("", row.id)
        return Event(event_id, EventType.IMPRESSION, user, item, 0)

    def fold(self, event: Event) -> Folded:
        """Of an event that no state stands behind, the store only remembers its id and that its user has counted."""
        waiting = self._waiting.pop(event.event_id, None)
        if waiting is None:
            return Folded([], [], [], [once._replace(cells=()) for once in self._fold(event).once])
        return waiting

    def _delta(self, entity: Entity, cell: str, amount: int) -> Delta:
        return Delta(cell, self._aggregate[entity, parse_cell(cell).name].op, amount)


@dataclass(frozen=True)
class Loaded:
    """Counts of one backfill. `present`: rows that an earlier, interrupted run had loaded."""

    users: int
    items: int
    present: int
    ids: int


def backfill(
    features: StateDefinition,
    open_store: Callable[[StateDefinition], FeatureStore],
    partitions: int,
    rows: Iterable[StateRow],
    recent: Iterable[Event],
    covered: Sequence[Covered],
) -> Loaded:
    """Fill an empty store so that a worker continues after `covered` with each event counted once.

    1. Each state is merged into its partition, under a topic of its own.
    2. The ids of `recent` events are stored, so that a retry in flight is a duplicate, and a user who has counted
       today does not count again.
    3. The offsets come last: a worker that starts before them would start at 0 and count twice.

    Args:
        open_store: opens a store for a definition.
        recent: the events that `dedupe_since` asks for.
        covered: how far the states reach in each topic partition of the log.

    Raises:
        InvalidConfig: the store is not empty, or was filled up to other offsets; or `covered` has more partitions.
    """
    fold = StateFold(features)
    store = open_store(fold)
    try:
        if (wide := max((c.partition for c in covered), default=0) + 1) > partitions:
            raise InvalidConfig(f"the topics have {wide} partitions now; set RECSYS_PARTITIONS={wide}")
        name = ",".join(f"{c.topic}/{c.partition}@{c.log_id}:{c.offset}" for c in covered)
        _refuse_used(store, covered, name)
        loader = _Loader(fold, store, partitions, name)
        counts = loader.load(rows)
        n_ids = loader.remember(recent, covered)
        loader.finish(covered)
    finally:
        store.close()
    return Loaded(*counts, n_ids)


def _refuse_used(store: FeatureStore, covered: Sequence[Covered], name: str) -> None:
    """Refuse a store where a worker has run: its events are in the states, too. Offsets alone do not tell, because an
    interrupted backfill sets them as well; the backfill's own topic does."""
    mark = store.checkpoint(TOPIC, 0)
    resumed = mark is not None and mark.log_id == name
    for place in covered:
        stored = store.checkpoint(place.topic, place.partition)
        if not stored or not stored.offset:
            continue
        if not resumed or (stored.log_id, stored.offset) != (place.log_id, place.offset):
            raise InvalidConfig(
                f"the store is in use: {place.topic}/{place.partition} is at offset {stored.offset}; "
                "backfill into another namespace: --namespace NAME"
            )


def dedupe_since(watermark_ms: int, dedupe_ms: int) -> int:
    """The events from this time on (Unix milliseconds) tell whether one within the dedupe window counts: by its id, or
    by its user since the day began."""
    return (watermark_ms - dedupe_ms) // MS_PER_DAY * MS_PER_DAY


class _Loader:
    """Writes through the claims of one backfill."""

    def __init__(self, fold: StateFold, store: FeatureStore, partitions: int, name: str) -> None:
        self._fold, self._store, self._partitions = fold, store, partitions
        self._epochs: dict[tuple[str, int], int] = {}
        self._watermarks = dict.fromkeys(range(partitions), 0)
        for partition in range(partitions):
            stored = store.checkpoint(TOPIC, partition)
            if stored and (stored.log_id != name or stored.offset):
                raise InvalidConfig(
                    "the store is filled already; backfill into another namespace: --namespace NAME"
                )
            self._claim(TOPIC, partition, name)

    def load(self, rows: Iterable[StateRow]) -> tuple[int, int, int]:
        """(users, items, how many of them were present before)."""
        waiting: dict[int, list[Event]] = {p: [] for p in range(self._partitions)}
        cells = dict.fromkeys(range(self._partitions), 0)
        users = items = present = 0
        for row in rows:
            partition = partition_of(row.id, self._partitions)
            users += row.entity is Entity.USER
            items += row.entity is Entity.ITEM
            if row.entity is Entity.USER:
                self._watermarks[partition] = max(self._watermarks[partition], row.latest_ms)
            waiting[partition].append(self._fold.stand_in(row))
            cells[partition] += len(row.state.cells) + sum(map(len, row.state.histories.values()))
            if cells[partition] >= _CELLS_PER_CALL:
                present += self._apply(TOPIC, partition, waiting[partition]).duplicates
                waiting[partition], cells[partition] = [], 0
        for partition, events in waiting.items():
            present += self._apply(TOPIC, partition, events).duplicates
        return users, items, present

    def remember(self, recent: Iterable[Event], covered: Sequence[Covered]) -> int:
        """Store these ids under both topics: the lake does not record by which one an event came."""
        for place in covered:
            self._claim(place.topic, place.partition, place.log_id)
        places: dict[int, list[Covered]] = {}
        for place in covered:
            places.setdefault(place.partition, []).append(place)
        count = 0
        for chunk in _chunks(recent, _IDS_PER_CALL):
            by_partition: dict[int, list[Event]] = {}
            for event in chunk:
                by_partition.setdefault(partition_of(event.user_id, self._partitions), []).append(event)
            count += len(chunk)
            for partition, events in by_partition.items():
                for place in places.get(partition, ()):  # none: its worker starts at the beginning
                    self._apply(place.topic, partition, events, 0, self._watermark(place))
        return count

    def finish(self, covered: Sequence[Covered]) -> None:
        """Set the offsets, then forget the ids of the stand-ins: until then the backfill can be repeated."""
        for place in covered:
            self._apply(place.topic, place.partition, [], place.offset, self._watermark(place))
        for partition in range(self._partitions):
            self._apply(TOPIC, partition, [], _DONE, MAX_TIME_MS)

    def _watermark(self, place: Covered) -> int:
        return place.watermark_ms or (self._watermarks[place.partition] if place.offset else 0)

    def _claim(self, topic: str, partition: int, log_id: str) -> None:
        self._epochs[topic, partition] = self._store.claim(topic, partition, log_id).epoch

    def _apply(
        self, topic: str, partition: int, events: list[Event], next_offset: int = 0, watermark_ms: int = 0
    ) -> Applied:
        applied = self._store.apply(
            Batch(
                topic=topic,
                partition=partition,
                epoch=self._epochs[topic, partition],
                previous=0,
                next_offset=next_offset,
                watermark_ms=watermark_ms,
                offsets=[0] * len(events),
                events=events,
            )
        )
        if applied.outcome is not Outcome.APPLIED:
            raise Unavailable(
                f"{topic}/{partition}: {applied.outcome}: something else writes to this namespace"
            )
        return applied


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
