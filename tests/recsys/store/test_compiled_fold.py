"""The compiled fold sends Redis the bytes that the Python fold sends."""

import dataclasses
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.contracts.events import MAX_TIME_MS, Event
from recsys.contracts.state import MAX_SUM, Op
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType
from recsys.features.aggregates import Aggregate, Entity, Measure
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import FeatureSet, Plan
from recsys.store.base import Batch, StoreConfig
from recsys.store.encoding import BatchEncoder, KeyedEvent, keyed
from tests.recsys.native.built import needs_native

pytestmark = needs_native

PYTHON, COMPILED = (BatchEncoder(FEATURES, StoreConfig(), native) for native in (False, True))

IDS = st.sampled_from(["a", "b", "Zoë", "日本", "x" * 40, "y" * 300])
NAMES = st.sampled_from(["", "drama", "comedy", "ヒューマン", "e" * 130])
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "categories": st.lists(NAMES, max_size=6).map("|".join),
        "creator": NAMES,
        "device": st.just("tv"),
    },
)
TIMES = (
    st.integers(1, MAX_TIME_MS - 1)
    | st.integers(0, 3 * MS_PER_DAY).map(lambda ms: 1_750_000_000_000 + ms)
    | st.sampled_from([1, MS_PER_HOUR - 1, MS_PER_HOUR, MS_PER_DAY])
)
VALUES = st.none() | st.floats(0, 1e12) | st.sampled_from([0.0, 0.05, 0.25, 3.0, 4.0, 5.0, 2.5, 1e12])
EVENTS = st.builds(
    Event,
    event_id=st.uuids(version=4).map(str),
    type=st.sampled_from(list(EventType)),
    user_id=IDS,
    item_id=IDS,
    event_time_ms=TIMES,
    request_id=st.none() | st.just("r"),
    position=st.none() | st.integers(0, 300),
    value=VALUES,
    context=CONTEXTS,
)


def batch(events: list[Event]) -> Batch:
    return Batch("events", 0, 1, 0, len(events), 1_750_000_000_000, range(len(events)), events)


@given(st.lists(EVENTS, max_size=20))
@example([])
def test_the_same_bytes(events: list[Event]) -> None:
    made = batch(events)
    assert COMPILED.encode(made, keyed(made), 4) == PYTHON.encode(made, keyed(made), 4)


def test_the_same_bytes_of_a_large_batch() -> None:
    """Enough users, visits, cells and keys that every length of MessagePack occurs, and the tables grow."""
    events = [
        Event(
            f"e{n}",
            [EventType.CLICK, EventType.IMPRESSION, EventType.RATING][n % 3],
            f"u{n % 7 if n % 2 else n}",
            f"i{n % 5}",
            1_750_000_000_000 + n * 40_000,
            request_id="r" if n % 4 else None,
            position=n % 30 or None,
            value=float(n % 6),
            context={"categories": f"c{n % 50}|d{n}", "creator": f"k{n % 9}"},
        )
        for n in range(3_000)
    ]
    made = batch(events)
    assert COMPILED.encode(made, keyed(made), 4) == PYTHON.encode(made, keyed(made), 4)


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("measure", Measure)
def test_every_operation_of_every_measure(op: Op, measure: Measure) -> None:
    """The sum of these times saturates."""
    rule = Aggregate("a", Entity.ITEM, frozenset(EventType), measure, op, scale=1_000)
    features = FeatureSet([])
    features.aggregates = (rule,)
    features.plans = {type_: Plan(type_, [rule], []) for type_ in EventType}
    latest_ms = MAX_TIME_MS - 1
    values = [5.0, 1e12, 0.0, 0.0005, 0.0015]
    made = batch(
        [
            Event(
                f"e{n}",
                EventType.CLICK,
                "u",
                "i",
                latest_ms - n % 7,
                position=n % 120 or None,
                value=values[n % len(values)],
            )
            for n in range(MAX_SUM // latest_ms + 10)
        ]
    )
    python, compiled = (BatchEncoder(features, StoreConfig(), native) for native in (False, True))
    content = compiled.encode(made, keyed(made), 4)
    assert content == python.encode(made, keyed(made), 4)
    saturates = op is Op.ADD and measure is Measure.TIME
    assert (MAX_SUM.to_bytes(8, "big") in content[0]) == saturates


NOT_EVENTS: list[dict[str, Any]] = [
    {"value": float("nan")},
    {"event_time_ms": -1},
    {"context": 3},
    {"user_id": 1},
    {"type": "unheard of"},
]


@pytest.mark.parametrize("broken", NOT_EVENTS)
def test_what_is_no_event_is_refused(broken: dict[str, Any]) -> None:
    event = dataclasses.replace(Event("e", EventType.RATING, "u", "i", 1, value=1.0), **broken)
    with pytest.raises((TypeError, ValueError)):
        COMPILED.encode(batch([event]), [KeyedEvent(0, bytes(16), event)], 4)
