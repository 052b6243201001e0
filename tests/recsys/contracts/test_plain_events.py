"""The quick reader never says anything else than `parse_event`, and it reads what is usual."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import EVENT_FIELDS, Event, parse_event
from recsys.contracts.plain_events import plain_event
from tests.recsys.contracts.test_events import VALID, events

_ODD_TEXTS = st.sampled_from(
    ["", ".", "..", " a", "a ", "a b", "a\nb", "é", "e\u0301", "\u202e", "x" * 129, "x" * 300]
)
_ODD: st.SearchStrategy[Any] = st.one_of(
    _ODD_TEXTS,
    st.sampled_from(
        [None, True, 0, -1, 1.0, 1.5, 1e13, 10**30, "click", "rating", "impression", [], {}, ["a"]]
    ),
    st.dictionaries(
        _ODD_TEXTS | st.just("categories") | st.just("creator"), _ODD_TEXTS | st.integers(), max_size=3
    ),
)
_FIELDS = st.sampled_from([*EVENT_FIELDS, "extra"])


@given(events, st.dictionaries(_FIELDS, _ODD, max_size=2), st.sets(_FIELDS, max_size=1))
def test_it_says_what_the_rule_says_or_nothing(event: Event, odd: dict[str, Any], missing: set[str]) -> None:
    raw = {name: value for name, value in (event.to_dict() | odd).items() if name not in missing}
    encoded = msgspec.json.encode(raw)
    found = plain_event(encoded)
    if found is not None:
        expected = parse_event(msgspec.json.decode(encoded))
        assert found == expected
        assert [type(getattr(found, name)) for name in EVENT_FIELDS] == [
            type(getattr(expected, name)) for name in EVENT_FIELDS
        ]


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_what_is_no_event_is_none_of_its_business(content: bytes) -> None:
    assert plain_event(content) is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"context": None},
        {"request_id": "r-1", "position": 3, "type": "dwell", "value": 1_500},
        {
            "type": "purchase",
            "value": 9.99,
            "context": {"categories": "a b|c", "creator": "x", "device": "\u00e9"},
        },
        {"item_id": "x" * 128, "request_id": None, "position": None, "value": None, "schema_version": 1},
    ],
)
def test_it_reads_what_is_usual(more: dict[str, Any]) -> None:
    assert plain_event(msgspec.json.encode(VALID | more)) == parse_event(VALID | more)


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "rating", "value": 1.0},
        {"type": "impression"},
        {"user_id": ".."},
        {"item_id": "a\u0000"},
        {"user_id": "u\nv"},
        {"context": {"categories": " a"}},
        {"type": "dwell", "value": 86_400_001},
        {"extra": 1},
    ],
)
def test_it_leaves_the_rest_to_the_rule(odd: dict[str, Any]) -> None:
    assert plain_event(msgspec.json.encode(VALID | odd)) is None
    if "rating" not in odd.values() and "impression" not in odd.values() and "context" not in odd:
        with pytest.raises(InvalidEvent):
            parse_event(VALID | odd)
