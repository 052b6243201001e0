"""The impression log's record survives the wire, and expands to the same events every time."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import new_id, parse_event
from recsys.contracts.impressions import Impression, ShownItem, impression_events, parse_impression
from recsys.contracts.types import NARROWED, EventType
from recsys.lake.lake import events_table, impressions_table

IMPRESSION = Impression(
    request_id="r1",
    user_id="u1",
    time_ms=1_700_000_000_000,
    bundle="b1",
    fingerprint="f1",
    items=(
        ShownItem("i1", 0, 0.5, 1.0, ("two_tower",), ("Action", "Drama")),
        ShownItem("i2", 1, 0.25, 0.1, ("popular", "fresh")),
    ),
    features=np.array([[1.0, 0.1], [np.float32(1e-38), 3.0]], dtype=np.float32),
    arm="rerank:dpp@0.5",
    context={"device": "tv"},
)


def with_item(**fields: Any) -> dict[str, Any]:
    """What replaces the items, to have these fields in the first one."""
    first, second = IMPRESSION.to_dict()["items"]
    return {"items": [first | fields, second]}


def test_features_survive_json_bit_by_bit() -> None:
    read = parse_impression(json.loads(json.dumps(IMPRESSION.to_dict())))
    np.testing.assert_array_equal(read.features.view(np.uint32), IMPRESSION.features.view(np.uint32))
    assert read.items == IMPRESSION.items
    assert read.context == IMPRESSION.context


def test_expansion_gives_valid_events_with_the_same_ids_each_time() -> None:
    events = impression_events(IMPRESSION)
    assert [parse_event(e.to_dict()) for e in events] == events
    assert [e.event_id for e in events] == [e.event_id for e in impression_events(IMPRESSION)]
    assert len({e.event_id for e in events}) == 2
    assert {e.type for e in events} == {EventType.IMPRESSION}
    assert events[0].categories == ("Action", "Drama")


@pytest.mark.parametrize("place", ["", ".3"])
def test_a_request_that_is_answered_twice_gives_the_same_ids(place: str) -> None:
    def ids(request_id: str, seconds_later: int, user_id: str = "u1") -> list[str]:
        time_ms = IMPRESSION.time_ms + 1_000 * seconds_later
        shown = replace(IMPRESSION, request_id=request_id, user_id=user_id, time_ms=time_ms)
        return [e.event_id for e in impression_events(shown)]

    request_id = new_id() + place
    assert ids(request_id, 0) == ids(request_id, 5)
    assert not {*ids(request_id, 0)} & {*ids(new_id() + place, 0), *ids(request_id, 0, "u2")}
    assert not {*ids("of a session", 0)} & {*ids("of a session", 5)}, (
        "other ids may be used for many requests"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"features": "AAAA"},
        {"items": None},
        {"items": [{}]},
        with_item(categories=[1]),
        with_item(categories="Drama"),
        with_item(position=-1),
        with_item(position=10**30),
        with_item(position="1"),
        with_item(score=10**400),
        with_item(score=1e300),
        with_item(score="nan"),
        with_item(propensity=None),
        with_item(creator=None),
        {"bundle": 5},
        {"fingerprint": None},
        {"arm": ["rerank:dpp@0.5"]},
        {"arm": "rerank"},
        {"arm": "rerank:dpp@often"},
        {"arm": "rerank:dpp@nan"},
        {"arm": "rerank:dpp@0"},
        {"time_ms": "soon"},
        {"time_ms": 0},
        {"user_id": 5},
        {"user_id": ""},
        {"context": {"device": 1}},
        {"context": "tv"},
        {"context": {str(n): "" for n in range(33)}},
        {"narrowed_from": True},
        {"narrowed_from": None},
        {"narrowed_from": -1},
        {"narrowed_from": 101},
    ],
)
def test_a_broken_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent, match="impression"):
        parse_impression(IMPRESSION.to_dict() | change)


def test_events_of_a_narrowed_list_say_so() -> None:
    events = impression_events(replace(IMPRESSION, narrowed_from=0))
    assert [event.value for event in events] == [NARROWED, NARROWED]
    assert [replace(event, value=None) for event in events] == impression_events(IMPRESSION)
    second_on = impression_events(replace(IMPRESSION, narrowed_from=1))
    assert [event.value for event in second_on] == [None, NARROWED]
    first, second = IMPRESSION.items
    deep = replace(IMPRESSION, items=(replace(first, position=99), replace(second, position=100)))
    assert [event.value for event in impression_events(deep)] == [None, NARROWED]


def test_a_missing_field_is_refused() -> None:
    record = IMPRESSION.to_dict()
    del record["bundle"]
    with pytest.raises(InvalidEvent, match="bundle"):
        parse_impression(record)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, -(10**400)])
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(value=json_values)
def test_what_is_accepted_can_be_expanded_replayed_and_written(value: object) -> None:
    for change in (
        *({name: value} for name in IMPRESSION.to_dict()),
        *(with_item(**{name: value}) for name in IMPRESSION.to_dict()["items"][0]),
    ):
        try:
            impression = parse_impression(IMPRESSION.to_dict() | change)
        except InvalidEvent:
            continue
        events = impression_events(impression)
        assert [parse_event(msgspec.json.decode(msgspec.json.encode(e.to_dict()))) for e in events] == events
        assert events_table(events).num_rows == impressions_table([impression]).num_rows == len(events)
