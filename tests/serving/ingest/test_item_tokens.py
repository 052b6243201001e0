"""What an action needs to count as one of a list: nobody can make it, and it cannot be used for anything else."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from serving.ingest.item_tokens import LIFE_MS, ItemTokens, Judged, Unproven

NOW_MS = 1_750_000_000_000
TOKENS = ItemTokens(b"k" * 32)
EVENT = Event("own-id", EventType.CLICK, "u1", "i1", NOW_MS + 5_000, request_id="r1", position=3)
(TOKEN,) = TOKENS.make("r1", "u1", ["i1"], NOW_MS)
IDS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)


def judged(token: str | None = TOKEN, now_ms: int = NOW_MS, **changes: Any) -> Judged:
    return TOKENS.judge(dataclasses.replace(EVENT, **changes), token, now_ms)


def test_with_the_items_token_an_action_is_of_its_list() -> None:
    event = judged().event
    assert (event.request_id, event.position, event.event_time_ms) == ("r1", 3, NOW_MS + 5_000)
    assert not judged().unproven
    assert not judged().note


@given(IDS, IDS, IDS, st.binary(min_size=32, max_size=64))
def test_a_token_is_good_for_its_key_request_user_and_item_alone(
    request: str, user: str, item: str, key: bytes
) -> None:
    same = (request, user, item) == ("r1", "u1", "i1")
    found = TOKENS.judge(
        dataclasses.replace(EVENT, request_id=request, user_id=user, item_id=item), TOKEN, NOW_MS
    )
    assert found.unproven == (None if same else Unproven.WRONG)
    assert ItemTokens(key).judge(EVENT, TOKEN, NOW_MS).unproven == (
        None if key == b"k" * 32 else Unproven.WRONG
    )


@pytest.mark.parametrize("changed", [{"request_id": "r2"}, {"user_id": "u2"}, {"item_id": "i2"}])
def test_one_other_id_is_enough_to_make_it_wrong(changed: dict[str, Any]) -> None:
    assert judged(**changed).unproven is Unproven.WRONG


def test_parts_of_ids_cannot_change_places() -> None:
    (token,) = TOKENS.make("ab", "c", ["d"], NOW_MS)
    assert judged(token, request_id="a", user_id="bc", item_id="d").unproven is Unproven.WRONG


@pytest.mark.parametrize("place", range(len(TOKEN)))
def test_an_altered_token_is_wrong(place: int) -> None:
    other = "A" if TOKEN[place] != "A" else "B"
    assert judged(TOKEN[:place] + other + TOKEN[place + 1 :]).unproven is Unproven.WRONG


@pytest.mark.parametrize("token", ["x", "ä" * 20, TOKEN[:-1], TOKEN + "AAAA", "\x00", "=" * 20, TOKEN[:4]])
def test_what_is_no_token_is_wrong(token: str) -> None:
    assert judged(token).unproven is Unproven.WRONG


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_it_is_an_action_from_elsewhere(token: str | None) -> None:
    found = judged(token)
    assert found.unproven is Unproven.MISSING
    assert found.event == dataclasses.replace(EVENT, request_id=None, position=None), "nothing else is lost"
    assert "send the item's `token`" in found.note


def test_an_event_that_names_no_request_needs_no_token() -> None:
    loose = dataclasses.replace(EVENT, request_id=None)
    assert TOKENS.judge(loose, None, NOW_MS) == Judged(loose)


def test_a_list_of_yesterday_proves_nothing() -> None:
    assert not judged(now_ms=NOW_MS + LIFE_MS).unproven
    assert judged(now_ms=NOW_MS + LIFE_MS + 1).unproven is Unproven.EXPIRED


def test_outcomes_count_once_per_list_and_item_whatever_their_ids() -> None:
    clicks = {judged(event_id=f"e{n}").event.key for n in range(5)}
    assert len(clicks) == 1
    assert judged(type=EventType.LIKE).event.key not in clicks
    (later,) = TOKENS.make("r2", "u1", ["i1"], NOW_MS)
    assert judged(later, request_id="r2").event.key not in clicks
    dwells = {judged(event_id=f"e{n}", type=EventType.DWELL).event.key for n in range(5)}
    assert len(dwells) == 5, "how long somebody reads may come in parts"


def test_nothing_happened_before_its_list() -> None:
    """Else the id could be forgotten, as that of an old event, while the token is still good."""
    assert judged(event_time_ms=NOW_MS - LIFE_MS).event.event_time_ms == NOW_MS
