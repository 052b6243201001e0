"""Fold and assemble, batch kernel, brute force: the same bits, whatever the order of arrival."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Item, User
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.features.reference import ReferenceSource, reference_features
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log

CONTEXT = {"tab": "4"}


def streamed(
    events: list[Event], user: User, items: list[Item], now_ms: int, pieces: int = 1
) -> NDArray[np.float32]:
    """Fold into cells, as the stream does; items in `pieces` partial states that are merged."""
    return assembled(folded_user(events, user), events, user, items, now_ms, pieces)


def assembled(
    state: EntityState, events: list[Event], user: User, items: list[Item], now_ms: int, pieces: int = 1
) -> NDArray[np.float32]:
    """The same for a user of this state."""
    shares = [{i.item_id: EntityState() for i in items} for _ in range(pieces)]
    counted: set[bytes] = set()
    for n, event in enumerate(events):
        for delta in FEATURES.fold(event).of_item(counted):
            shares[n % pieces][event.item_id].change(delta)
    columns = ItemColumns(items, FEATURES)
    columns.load((i.item_id, merged([share[i.item_id] for share in shares])) for i in items)
    rows = np.arange(len(items), dtype=np.int32)
    return assemble(FEATURES, state, user.attributes, columns, rows, now_ms, CONTEXT)


def folded_user(events: list[Event], user: User) -> EntityState:
    state = EntityState()
    for event in events:
        if event.user_id == user.user_id:
            folded = FEATURES.fold(event)
            for delta in folded.user:
                state.change(delta)
            for history, visit in folded.visits:
                state.visit(history, visit)
    return state


def merged(states: list[EntityState]) -> EntityState:
    result = EntityState()
    for state in states:
        for cell, amount in state.cells.items():
            old = result.cells.get(cell)
            latest = cell.startswith("last")
            result.cells[cell] = amount if old is None else max(old, amount) if latest else old + amount
    return result


def brute_force(events: list[Event], user: User, items: list[Item], now_ms: int) -> NDArray[np.float32]:
    return np.stack(
        [reference_features(FEATURES, ReferenceSource(events, user, i, now_ms, CONTEXT)) for i in items]
    )


def assert_same_bits(left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    assert left.dtype == right.dtype == np.float32
    wrong = np.argwhere(left.view(np.uint32) != right.view(np.uint32))
    assert not wrong.size, [(FEATURES.names[c], r, left[r, c], right[r, c]) for r, c in wrong[:5]]


@pytest.mark.parametrize("seed", range(6))
def test_stream_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    users, items = population(rng), catalogue(rng)
    span = rng.choice([MS_PER_HOUR, MS_PER_DAY, 12 * MS_PER_DAY, 60 * MS_PER_DAY])
    events = random_log(rng, users, items, 400, span)
    now = START_MS + span + rng.choice([0, 1, MS_PER_HOUR, 9 * MS_PER_DAY])
    for user in users:
        assert_same_bits(streamed(events, user, items, now), brute_force(events, user, items, now))


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 60), st.sampled_from([1, 3]))
def test_any_order_of_arrival_gives_the_same_bits(rng: random.Random, n: int, pieces: int) -> None:
    users, items = population(rng, 2), catalogue(rng, 4)
    span = rng.choice([MS_PER_HOUR, 3 * MS_PER_DAY, 40 * MS_PER_DAY])
    events = random_log(rng, users, items, n, span)
    shuffled = rng.sample(events, len(events))
    now = START_MS + span
    assert_same_bits(
        streamed(shuffled, users[0], items, now, pieces), brute_force(events, users[0], items, now)
    )


def test_the_clock_alone_changes_values_exactly_at_tile_ends() -> None:
    rng = random.Random(7)
    users, items = population(rng, 1), catalogue(rng, 5)
    events = random_log(rng, users, items, 200, 2 * MS_PER_DAY)
    columns = ItemColumns(items, FEATURES)
    states = {i.item_id: EntityState() for i in items}
    counted: set[bytes] = set()
    for event in events:
        for delta in FEATURES.fold(event).of_item(counted):
            states[event.item_id].change(delta)
    columns.load(states.items())
    rows = np.arange(len(items), dtype=np.int32)
    end = START_MS + 2 * MS_PER_DAY
    for now in [
        end,
        end + 299_999,
        end + 300_000,
        end + MS_PER_HOUR - 1,
        end + MS_PER_HOUR,
        end + 9 * MS_PER_DAY,
    ]:
        matrix = assemble(FEATURES, EntityState(), {}, columns, rows, now, {})
        fresh = ItemColumns(items, FEATURES)
        fresh.load(states.items())
        assert_same_bits(matrix, assemble(FEATURES, EntityState(), {}, fresh, rows, now, {}))
