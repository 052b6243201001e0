"""The impression log's record survives the wire, and expands to the same events every time."""

import json

import numpy as np
import pytest

from recsys.errors import InvalidEvent
from recsys.events import parse_event
from recsys.impressions import Impression, ShownItem, impression_events, parse_impression
from recsys.types import EventType

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
    arm="b",
    context={"device": "tv"},
)


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


@pytest.mark.parametrize(
    "change",
    [
        {"features": "AAAA"},
        {"items": None},
        {"items": [{}]},
        {"items": [IMPRESSION.to_dict()["items"][0] | {"categories": [1]}, IMPRESSION.to_dict()["items"][1]]},
        {"time_ms": "soon"},
        {"time_ms": 0},
        {"user_id": 5},
        {"user_id": ""},
        {"context": {"device": 1}},
        {"context": "tv"},
    ],
)
def test_a_broken_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent, match="impression"):
        parse_impression(IMPRESSION.to_dict() | change)


def test_a_missing_field_is_refused() -> None:
    record = IMPRESSION.to_dict()
    del record["bundle"]
    with pytest.raises(InvalidEvent, match="bundle"):
        parse_impression(record)
