"""The union of states is the state of a user who did everything."""

import random
from dataclasses import replace

import pytest

from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, User
from recsys.features.aggregates import Entity
from recsys.features.cells import CellCoding, PackedCells
from recsys.features.definitions import FEATURES
from recsys.store.union import StateUnion
from tests.recsys.features.test_three_ways import folded_user
from tests.recsys.features.worlds import catalogue, population, random_log

CODING = CellCoding(FEATURES.aggregates, Entity.USER)


@pytest.mark.parametrize("seed", range(4))
def test_a_union_is_the_fold_of_all_events(seed: int) -> None:
    rng = random.Random(seed)
    users = population(rng, 3)
    log = random_log(rng, users, catalogue(rng), 900, 3 * MS_PER_DAY)
    one = User("all of them")
    # equal moments of several ids come in the order of the ids, as Arrow and Redis sort them
    together = [
        replace(e, user_id=one.user_id, event_id=f"{e.event_id}-{e.user_id}")
        for e in sorted(log, key=lambda e: (e.event_time_ms, e.event_id, e.user_id))
    ]
    states = {user.user_id: folded_user(log, user) for user in users}
    packed = {
        user_id: EntityState(PackedCells(CODING, *CODING.pack(state.cells)), state.histories)
        for user_id, state in states.items()
    }
    expected = folded_user(together, one)
    assert any(len(visits) > 50 for state in states.values() for visits in state.histories.values())
    for parts in (states, packed, dict(reversed(packed.items()))):
        union = StateUnion(FEATURES).of(parts)
        assert dict(union.cells) == expected.cells
        for name, visits in expected.histories.items():
            assert union.histories[name] == [
                v._replace(event_id=v.event_id.rpartition("-user")[0]) for v in visits
            ]
        assert union.histories.keys() == expected.histories.keys()


def test_nothing_and_something_is_something() -> None:
    assert StateUnion(FEATURES).of({"a": EntityState(), "b": EntityState()}) == EntityState(
        PackedCells(CODING, *CODING.pack({}))
    )
