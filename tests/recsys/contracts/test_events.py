"""The event contract: what is accepted, what is refused and why, and that ids are what they say."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import (
    EVENT_FIELDS,
    MAX_TIME_MS,
    Event,
    derived_id,
    item_context,
    new_id,
    parse_event,
    parse_reported,
    told_apart,
)
from recsys.contracts.text import id_text
from recsys.contracts.types import EventType
from recsys.lake.lake import events_table

VALID: dict[str, Any] = {
    "event_id": "0190f5a0-0000-7000-8000-000000000001",
    "type": "click",
    "user_id": "u1",
    "item_id": "i1",
    "event_time_ms": 1_700_000_000_000,
}


def taken(raw: str) -> str:
    """The id's one form, or nothing."""
    return "" if raw in (".", "..") else id_text(raw)


identifiers = (
    st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=40).map(taken).filter(bool)
)
events = st.builds(
    Event,
    event_id=identifiers,
    type=st.sampled_from(EventType),
    user_id=identifiers,
    item_id=identifiers,
    event_time_ms=st.integers(1, MAX_TIME_MS - 1),
    request_id=st.none() | identifiers,
    position=st.none() | st.integers(0, 999_999),
    value=st.none() | st.floats(0, 100),
    context=st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5),
).map(lambda event: replace(event, type=told_apart(event.type, event.value)))


@given(events)
def test_parsing_reverses_to_dict(event: Event) -> None:
    assert parse_event(event.to_dict()) == event
    assert tuple(event.to_dict()) == EVENT_FIELDS


def test_optional_fields_may_be_absent() -> None:
    event = parse_event(VALID)
    assert (event.request_id, event.position, event.value, dict(event.context)) == (None, None, None, {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "clik"}, "type"),
        ({"type": None}, "type"),
        ({"type": ["click"]}, "type"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": 7}, "event_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"item_id": "a\nb"}, "item_id"),
        ({"event_time_ms": 1.5}, "event_time_ms"),
        ({"event_time_ms": True}, "event_time_ms"),
        ({"event_time_ms": -1}, "event_time_ms"),
        ({"event_time_ms": 1_700_000_000_000_000}, "event_time_ms"),
        ({"position": -1}, "position"),
        ({"position": "1"}, "position"),
        ({"value": float("nan")}, "value"),
        ({"value": float("inf")}, "value"),
        ({"value": 10**400}, "value"),
        ({"value": "5"}, "value"),
        ({"value": True}, "value"),
        ({"value": -0.01}, "value"),
        ({"value": 1.1e12}, "value"),
        ({"type": "dwell", "value": 86_400_001}, "value: of a dwell"),
        ({"type": "rating", "value": 100.5}, "value: of a rating"),
        ({"context": {"a": 1}}, "context"),
        ({"context": [1]}, "context"),
        ({"context": []}, "context"),
        ({"context": {str(n): "" for n in range(33)}}, "context"),
        ({"context": {"a": "x" * 600}}, "context"),
        ({"schema_version": 2}, "schema_version"),
        ({"extra": 1}, "extra"),
        ({"request_id": ""}, "request_id"),
    ],
)
def test_a_broken_field_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidEvent, match=reason):
        parse_event(VALID | change)


@pytest.mark.parametrize("field", ["event_id", "type", "user_id", "item_id", "event_time_ms"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidEvent, match=field):
        parse_event({k: v for k, v in VALID.items() if k != field})


@pytest.mark.parametrize("raw", [None, 1, "x", [], [VALID]])
def test_only_objects_are_events(raw: object) -> None:
    with pytest.raises(InvalidEvent, match="JSON object"):
        parse_event(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=5,
    )
)
def test_any_value_of_any_field_is_refused_or_can_be_written_to_the_lake(value: object) -> None:
    for name in EVENT_FIELDS:
        try:
            event = parse_event(VALID | {name: value})
        except InvalidEvent as error:
            assert str(error)
        else:
            assert events_table([event]).num_rows == 1


def test_a_low_rating_is_a_dislike() -> None:
    kinds = [parse_event(VALID | {"type": "rating", "value": stars}).type for stars in (1, 2.5, 3, 5, None)]
    assert kinds == [EventType.DISLIKE] * 2 + [EventType.RATING] * 3


def test_categories_come_from_the_context() -> None:
    event = parse_event(VALID | {"context": {"categories": "Action|Sci-Fi"}})
    assert event.categories == ("Action", "Sci-Fi")
    assert parse_event(VALID).categories == ()


def test_of_an_items_categories_and_creator_only_what_fits_enters_a_context() -> None:
    names = [f"{n:0128}" for n in range(5)]
    context = item_context({"page": "home"}, names, "creator")
    assert context == {"page": "home", "categories": "|".join(names[:3]), "creator": "creator"}
    assert parse_event(VALID | {"context": context}).categories == tuple(names[:3])
    exactly = ["x" * 251, "x" * 250]
    assert item_context({}, exactly, "") == {"categories": "|".join(exactly)}
    assert item_context({}, ["x" * 600], "y" * 600) == {}
    full = {str(n): "" for n in range(31)} | {"categories": "of the client"}
    assert item_context(full, ["Drama"], "creator") == full | {"categories": "Drama"}


def test_new_ids_are_uuid7_and_sort_by_time() -> None:
    early, late = new_id(lambda: 1_000), new_id(lambda: 2_000)
    assert early < late
    assert uuid.UUID(early).version == 7
    assert uuid.UUID(early).variant == uuid.RFC_4122
    assert uuid.UUID(new_id(lambda: 1_234)).int >> 80 == 1_234


def test_derived_ids_repeat_and_differ() -> None:
    assert derived_id(5, "a", 1) == derived_id(5, "a", 1)
    assert derived_id(5, "a", 1) != derived_id(5, "a", 2)
    assert derived_id(5, "ab", "c") != derived_id(5, "a", "bc")
    assert uuid.UUID(derived_id(5, "a")).version == 7


def test_impressions_cannot_be_reported() -> None:
    shown = VALID | {"type": "impression"}
    assert parse_event(shown).type is EventType.IMPRESSION
    with pytest.raises(InvalidEvent, match="topic impressions"):
        parse_reported(shown)
