"""The state job's kernels give exactly the state that folding each event gives."""

import random

import pytest
from hypothesis import given

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Item, Topic, User
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.store.backfill import Covered, StateRow, backfill
from recsys.store.base import Batch, StateDefinition, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from tests.recsys.features.worlds import catalogue, population, random_log, sparse_logs
from tests.training.features.feature_rows import event_rows
from training.features.state_job import entity_state, item_states, user_states


def folded(events: list[Event]) -> tuple[dict[str, EntityState], dict[str, EntityState]]:
    """(users, items)."""
    users: dict[str, EntityState] = {}
    items: dict[str, EntityState] = {}
    counted: set[bytes] = set()
    for event in events:
        change = FEATURES.fold(event)
        user = users.setdefault(event.user_id, EntityState())
        item = items.setdefault(event.item_id, EntityState())
        for delta in change.user:
            user.change(delta)
        for delta in change.of_item(counted):
            item.change(delta)
        for history, visit in change.visits:
            user.visit(history, visit)
    return users, items


@pytest.mark.parametrize("seed", range(4))
def test_states_equal_the_fold(seed: int) -> None:
    rng = random.Random(seed)
    span = rng.choice([MS_PER_HOUR, 3 * MS_PER_DAY, 50 * MS_PER_DAY])
    events = random_log(rng, population(rng), catalogue(rng), 500, span)
    users, items = folded(events)
    rows = event_rows(rng.sample([*events, *events[:50]], len(events) + 50))
    assert {r["id"]: entity_state(r) for r in user_states(rows).to_pylist()} == users
    assert {r["id"]: entity_state(r) for r in item_states(rows).to_pylist()} == items


def test_histories_are_cut_to_their_size() -> None:
    rng = random.Random(9)
    events = random_log(rng, population(rng, 1), catalogue(rng, 3), 400, MS_PER_DAY)
    (state,) = (entity_state(r) for r in user_states(event_rows(events)).to_pylist())
    assert (len(state.histories["engaged"]), len(state.histories["shown"])) == (50, 20)
    assert len(state.histories["seen"]) > 50


class _Store(MemoryFeatureStore):
    """One memory store for every definition that opens it."""

    def use(self, features: StateDefinition) -> MemoryFeatureStore:
        self._features = features
        return self

    def content(self, events: list[Event]) -> tuple[dict[str, EntityState], dict[str, EntityState]]:
        return {e.user_id: self.user(e.user_id) for e in events}, dict(self.all_items())


@given(sparse_logs())
def test_a_backfilled_store_is_the_streamed_one(log: tuple[list[User], list[Item], list[Event]]) -> None:
    """Whatever is missing in the log: types, users, items, everything."""
    *_, events = log
    streamed, filled = _Store(FEATURES, StoreConfig(1)), _Store(FEATURES, StoreConfig(1))
    epoch = streamed.claim(Topic.EVENTS, 0, "log").epoch
    newest = max((e.event_time_ms for e in events), default=0)
    streamed.apply(
        Batch(Topic.EVENTS, 0, epoch, 0, len(events), newest, range(len(events)), events),
    )
    rows = event_rows(events)
    tables = [*user_states(rows).to_pylist(), *item_states(rows).to_pylist()]
    states = [StateRow(Entity(r["entity"]), r["id"], entity_state(r), r["latest_ms"]) for r in tables]
    backfill(FEATURES, filled.use, 1, states, events, [Covered(Topic.EVENTS, 0, "log", len(events))])
    assert filled.content(events) == streamed.content(events)
    ends = [store.checkpoint(Topic.EVENTS, 0) for store in (filled, streamed)]
    assert len({(end.offset, end.watermark_ms) for end in ends if end}) == 1
