"""Backfill: states from a lake, then a worker that continues, equal one that saw every event. Memory and Redis."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, Topic
from recsys.features.aggregates import Entity, parse_cell
from recsys.features.definitions import FEATURES
from recsys.store.backfill import Covered, StateRow, backfill
from recsys.store.base import Applied, Batch, FeatureStore, StateDefinition, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from recsys.store.redis import RedisFeatureStore
from tests.recsys.features.worlds import catalogue, population, random_log

PARTITIONS = 2
CONFIG = StoreConfig(PARTITIONS)
RNG = random.Random(1)
USERS, ITEMS = population(RNG, 6), catalogue(RNG, 5)
LOG = random_log(RNG, USERS, ITEMS, 300, 3 * MS_PER_DAY)
LAKE = LOG[:200]
SINCE_MS = max(e.event_time_ms for e in LAKE) - CONFIG.dedupe_ms
REST = [e for e in LOG[200:] if e.event_time_ms >= SINCE_MS]  # a worker refuses later ones
Open = Callable[[StateDefinition], FeatureStore]


class _Shared(MemoryFeatureStore):
    """One memory store for every definition that opens it."""

    def use(self, features: StateDefinition) -> FeatureStore:
        self._features = features
        return self


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def open_store(request: pytest.FixtureRequest) -> Open:
    if request.param == "memory":
        return _Shared(FEATURES, CONFIG).use
    url = request.getfixturevalue("redis_url")
    return lambda features: RedisFeatureStore(url, features, CONFIG)


def of_partition(events: list[Event], partition: int) -> list[Event]:
    return [e for e in events if partition_of(e.user_id, PARTITIONS) == partition]


def covered() -> list[Covered]:
    return [Covered(Topic.EVENTS, p, "log", len(of_partition(LAKE, p))) for p in range(PARTITIONS)]


def lake_rows() -> Iterator[StateRow]:
    states: dict[tuple[Entity, str], EntityState] = {}
    latest: dict[tuple[Entity, str], int] = {}
    counted: set[bytes] = set()
    for event in LAKE:
        folded = FEATURES.fold(event)
        user, item = (Entity.USER, event.user_id), (Entity.ITEM, event.item_id)
        for delta in folded.user:
            states.setdefault(user, EntityState()).change(delta)
        for history, visit in folded.visits:
            states.setdefault(user, EntityState()).visit(history, visit)
        for delta in folded.of_item(counted):
            states.setdefault(item, EntityState()).change(delta)
        for key in (user, item):
            latest[key] = max(latest.get(key, 0), event.event_time_ms)
    return (StateRow(entity, id_, state, latest[entity, id_]) for (entity, id_), state in states.items())


def run(store: FeatureStore, events: list[Event], starts: dict[int, int]) -> None:
    """A worker: reads each partition from its stored offset on."""
    for partition in range(PARTITIONS):
        claim = store.claim(Topic.EVENTS, partition, "log")
        assert claim.offset == starts[partition]
        part = of_partition(events, partition)
        offsets = range(claim.offset, claim.offset + len(part))
        watermark = max(e.event_time_ms for e in events)
        store.apply(
            Batch(Topic.EVENTS, partition, claim.epoch, claim.offset, offsets.stop, watermark, offsets, part)
        )


def states(store: FeatureStore) -> dict[tuple[Entity, str], EntityState]:
    """What a reader at the end of the log can see: the store may drop older tiles."""
    found = {(Entity.USER, u.user_id): store.user(u.user_id) for u in USERS}
    found |= {(Entity.ITEM, item_id): state for item_id, state in store.all_items()}
    return {key: EntityState(live(key[0], state.cells), state.histories) for key, state in found.items()}


def live(entity: Entity, cells: Mapping[str, int]) -> dict[str, int]:
    now = max(e.event_time_ms for e in (*LAKE, *REST))
    result = {}
    for cell, amount in cells.items():
        name, tile, _ = parse_cell(cell)
        aggregate = FEATURES.aggregate(entity, name)
        assert aggregate is not None
        hop = aggregate.hop_ms
        if not hop or now // hop - tile < aggregate.retention_ms // hop:
            result[cell] = amount
    return result


def fill(open_store: Open) -> None:
    backfill(FEATURES, open_store, PARTITIONS, lake_rows(), LAKE, covered())


def expected() -> dict[tuple[Entity, str], EntityState]:
    whole = MemoryFeatureStore(FEATURES, CONFIG)
    run(whole, [*LAKE, *REST], dict.fromkeys(range(PARTITIONS), 0))
    return states(whole)


def test_a_worker_that_continues_gives_what_it_would_have_given_alone(open_store: Open) -> None:
    fill(open_store)
    store = open_store(FEATURES)
    # the producer retries events of the last day: the worker must know them
    newest = max(e.event_time_ms for e in (*LAKE, *REST))
    retried = [e for e in LAKE if e.event_time_ms > newest - MS_PER_DAY][:20]
    assert retried
    run(store, [*REST, *retried], {c.partition: c.offset for c in covered()})
    assert states(store) == expected()


def test_an_interrupted_backfill_is_run_again(open_store: Open) -> None:
    def interrupted() -> Iterator[StateRow]:
        for n, row in enumerate(lake_rows()):
            if n == 7:
                raise ConnectionError("the cluster went away")
            yield row

    with pytest.raises(ConnectionError):
        backfill(FEATURES, open_store, PARTITIONS, interrupted(), LAKE, covered())
    loaded = backfill(FEATURES, open_store, PARTITIONS, lake_rows(), LAKE, covered())
    assert (loaded.users, loaded.items) == (len(USERS), len(ITEMS))
    store = open_store(FEATURES)
    run(store, REST, {c.partition: c.offset for c in covered()})
    assert states(store) == expected()


def test_a_store_that_a_worker_uses_is_refused(open_store: Open) -> None:
    run(open_store(FEATURES), LAKE[:50], dict.fromkeys(range(PARTITIONS), 0))
    with pytest.raises(InvalidConfig, match="in use"):
        fill(open_store)


def test_a_caught_up_live_store_is_refused_though_its_offsets_are_the_lakes(open_store: Open) -> None:
    run(open_store(FEATURES), LAKE, dict.fromkeys(range(PARTITIONS), 0))
    before = states(open_store(FEATURES))
    with pytest.raises(InvalidConfig, match="in use"):
        fill(open_store)
    assert states(open_store(FEATURES)) == before


def test_a_backfill_that_was_interrupted_between_its_offsets_is_run_again(open_store: Open) -> None:
    class Interrupted:
        def __init__(self, store: FeatureStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def apply(self, batch: Batch) -> Applied:
            if batch.topic == Topic.EVENTS and batch.partition == 1 and batch.next_offset:
                raise ConnectionError("the cluster went away")
            return self._store.apply(batch)

    with pytest.raises(ConnectionError):
        fill(lambda features: cast("FeatureStore", Interrupted(open_store(features))))
    fill(open_store)
    store = open_store(FEATURES)
    run(store, REST, {c.partition: c.offset for c in covered()})
    assert states(store) == expected()


def test_filling_twice_is_refused(open_store: Open) -> None:
    fill(open_store)
    with pytest.raises(InvalidConfig, match="filled already"):
        fill(open_store)
