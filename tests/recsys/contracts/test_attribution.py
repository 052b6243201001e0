"""Which types of event belong to an impression only by the request that they name."""

from collections import Counter

import pytest

from recsys.contracts.attribution import Attribution, Unnamed
from recsys.contracts.types import MS_PER_DAY, EventType

CLICK, LIKE, PURCHASE = EventType.CLICK, EventType.LIKE, EventType.PURCHASE
EVENTS = Counter({CLICK: 10, LIKE: 10, PURCHASE: 3})


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", {CLICK}), ("request", set(EventType)), ("window:12", set())]
)
def test_which_types_need_their_request(text: str, expected: set[EventType]) -> None:
    named = Counter({CLICK: 5, LIKE: 4})
    assert Attribution.parse(text).only_named(EVENTS, named) == expected


def test_a_type_without_events_needs_nothing() -> None:
    assert Attribution().only_named(Counter({CLICK: 0}), Counter()) == frozenset()


def test_the_window_is_in_hours() -> None:
    assert Attribution.parse("window:36") == Attribution(Unnamed.WINDOW, 3 * MS_PER_DAY // 2)


@pytest.mark.parametrize(
    "text", ["", "window", "window:0", "window:-1", "window:9999999", "window:1.5", "Auto", "all"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="none of auto, request, window:H"):
        Attribution.parse(text)
