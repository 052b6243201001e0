"""The state job's kernels give exactly the state that folding each event gives."""

import random

import pytest

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.features.definitions import FEATURES
from tests.recsys.features.worlds import catalogue, population, random_log
from tests.training.features.feature_rows import event_rows
from training.features.state_job import entity_state, item_states, user_states


def folded(events: list[Event]) -> tuple[dict[str, EntityState], dict[str, EntityState]]:
    """(users, items)."""
    users: dict[str, EntityState] = {}
    items: dict[str, EntityState] = {}
    for event in events:
        change = FEATURES.fold(event)
        user = users.setdefault(event.user_id, EntityState())
        item = items.setdefault(event.item_id, EntityState())
        for delta in change.user:
            user.change(delta)
        for delta in change.item:
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
