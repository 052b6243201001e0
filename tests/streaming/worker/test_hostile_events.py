"""Whatever others send, every other entity keeps the cells that it would have without them."""

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.event_log import Record, remembered_partition_of
from recsys.contracts.state import EntityState
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_HOUR, EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.memory import MemoryFeatureStore
from streaming.worker.batches import Claim, batches
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log

NOW_MS = START_MS + 2 * MS_PER_HOUR  # of every append
RNG = random.Random(3)
USERS, ITEMS = population(RNG), catalogue(RNG)
REPORTED = [kind for kind in EventType if kind is not EventType.IMPRESSION]
LOG = [e for e in random_log(RNG, USERS, ITEMS, 60, MS_PER_HOUR, REPORTED) if e.value is None or e.value >= 0]

numbers = st.integers() | st.floats() | st.sampled_from([1e12, 86_400_000, 100, 2**53, 2**63, -1, 10**400])
hostile = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from([e.event_id for e in LOG]) | st.text(max_size=3),
        "type": st.sampled_from([*map(str, EventType), "buy"]),
        "user_id": st.sampled_from(["mallory", "trudy"]),
        "item_id": st.sampled_from(["bait", "switch"]),
        "event_time_ms": st.sampled_from([1, START_MS, NOW_MS, NOW_MS + 10**9, 4_102_444_799_999]) | numbers,
    },
    optional={
        "value": numbers | st.none(),
        "request_id": st.sampled_from([e.request_id for e in LOG]),
        "position": numbers,
        "context": st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(), max_size=3),
    },
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.text(), lambda inner: st.lists(inner), max_leaves=5
)


def applied(values: list[Any]) -> tuple[dict[str, EntityState], dict[str, EntityState]]:
    """States of users and items after the worker's batches of these records in one partition."""
    records = [
        Record(Topic.EVENTS, 0, offset, "", msgspec.json.encode(value), NOW_MS)
        for offset, value in enumerate(values)
    ]
    store = MemoryFeatureStore(FEATURES, StoreConfig(partitions=1))
    claim = Claim(Topic.EVENTS, 0, store.claim(Topic.EVENTS, 0, "log").epoch, 0, 0)
    for prepared in batches(claim, records, 1, TimeRules(), 10):
        assert store.apply(prepared.batch).outcome == "applied"
    return {u.user_id: store.user(u.user_id) for u in USERS}, dict(store.all_items())


ALONE = applied([event.to_dict() for event in LOG])


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile | junk, max_size=30), st.randoms(use_true_random=False))
def test_hostile_events_leave_every_other_entity_as_it_was(others: list[Any], rng: random.Random) -> None:
    places = sorted(rng.choices(range(len(LOG) + 1), k=len(others)))
    mixed: list[Any] = [event.to_dict() for event in LOG]
    for place, other in zip(reversed(places), others, strict=True):
        mixed.insert(place, other)
    users, items = applied(mixed)
    assert users == ALONE[0]
    assert {item_id: state for item_id, state in items.items() if item_id not in ("bait", "switch")} == ALONE[
        1
    ]


def test_the_log_is_applied_at_all() -> None:
    assert remembered_partition_of("anyone", 1) == 0
    assert sum(len(state.cells) for state in ALONE[1].values()) > 50
