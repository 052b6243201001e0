"""What an action needs to count as one of a list: nobody can make it, and it cannot be used for anything else."""

import dataclasses
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.events import Event, derived_id
from recsys.contracts.state import EntityState
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.ingest.item_tokens import ItemTokens, Judged, Unproven

NOW_MS = 1_750_000_000_123
RULES = TimeRules()
LIFE_MS = RULES.late_ms - RULES.future_ms - MS_PER_HOUR
TOKENS = ItemTokens(b"k" * 32, RULES)
EVENT = Event("own-id", EventType.CLICK, "u1", "i1", NOW_MS + 5_000, request_id="r1", position=3)
(TOKEN,) = TOKENS.make("r1", "u1", ["i1"], NOW_MS)
IDS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)


def judged(token: str | None = TOKEN, now_ms: int = NOW_MS, **changes: Any) -> Judged:
    return TOKENS.judge(dataclasses.replace(EVENT, **changes), token, now_ms)


def test_with_the_items_token_an_action_is_of_its_list() -> None:
    event = judged().event
    assert (event.request_id, event.position, event.event_time_ms) == ("r1", 3, NOW_MS + 5_000)
    assert not judged().unproven


@given(IDS, IDS, IDS, st.binary(min_size=32, max_size=64))
def test_a_token_is_good_for_its_key_request_user_and_item_alone(
    request: str, user: str, item: str, key: bytes
) -> None:
    same = (request, user, item) == ("r1", "u1", "i1")
    found = TOKENS.judge(
        dataclasses.replace(EVENT, request_id=request, user_id=user, item_id=item), TOKEN, NOW_MS
    )
    assert found.unproven == (None if same else Unproven.WRONG)
    assert ItemTokens(key, RULES).judge(EVENT, TOKEN, NOW_MS).unproven == (
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


def test_an_old_list_proves_nothing_and_a_repeated_event_keeps_its_id() -> None:
    proven, expired = judged(now_ms=NOW_MS + LIFE_MS), judged(now_ms=NOW_MS + LIFE_MS + 1)
    assert (proven.unproven, expired.unproven) == (None, Unproven.EXPIRED)
    assert expired.event.event_id == proven.event.event_id
    assert expired.event.request_id is None


def test_no_outcome_is_late() -> None:
    rules = TimeRules(late_ms=2 * MS_PER_HOUR)
    for late in (rules, RULES):
        tokens = ItemTokens(b"k" * 32, late)
        (token,) = tokens.make("r1", "u1", ["i1"], NOW_MS)
        now_ms = NOW_MS + late.late_ms - late.future_ms - MS_PER_HOUR
        event = tokens.judge(EVENT, token, now_ms)
        assert not event.unproven
        assert not late.is_late(event.event.event_time_ms, now_ms + late.future_ms)


def test_outcomes_count_once_per_list_and_item_whatever_their_ids() -> None:
    clicks = {judged(event_id=f"e{n}").event.key for n in range(5)}
    assert len(clicks) == 1
    assert judged(type=EventType.LIKE).event.key not in clicks
    (later,) = TOKENS.make("r2", "u1", ["i1"], NOW_MS)
    assert judged(later, request_id="r2").event.key not in clicks
    dwells = {judged(event_id=f"e{n}", type=EventType.DWELL).event.key for n in range(5)}
    assert len(dwells) == 5, "how long somebody reads may come in parts"


@pytest.mark.parametrize("at", ["2025-06-15T12:00:00.123", "2025-06-15T23:40:00.123"])
def test_stream_and_batch_count_one_click_however_late_it_is_sent_again(at: str) -> None:
    """The store knows an id for an hour around its time, the lake for a UTC day."""
    made_ms = int(datetime.fromisoformat(f"{at}+00:00").timestamp() * 1_000)
    (token,) = TOKENS.make("r1", "u1", ["i1"], made_ms)
    clicks = [
        TOKENS.judge(
            dataclasses.replace(
                EVENT, event_id=f"e{hours}", event_time_ms=made_ms + int(hours * MS_PER_HOUR)
            ),
            token,
            made_ms + int(hours * MS_PER_HOUR),
        ).event
        for hours in (0, 0.4, 2, 5, 22.9)
    ]
    assert len({click.event_time_ms // MS_PER_DAY for click in clicks}) == 1
    assert applied(clicks) == applied(clicks[:1])


def applied(events: list[Event]) -> EntityState:
    """The user after these, each in a batch of its own."""
    store = MemoryFeatureStore(FEATURES)
    epoch = store.claim(Topic.EVENTS, 0, "log").epoch
    for n, event in enumerate(events):
        newest_ms = event.event_time_ms + n * MS_PER_HOUR
        store.apply(Batch(Topic.EVENTS, 0, epoch, n, n + 1, newest_ms, [n], [event]))
    return store.user("u1")


def test_a_request_that_is_repeated_has_the_outcomes_of_one_list() -> None:
    """As the impressions of its lists are one: their ids follow from the request, too."""
    request = derived_id(NOW_MS - 5_000, "of a client")
    clicks = set()
    for seconds in range(5):
        (token,) = TOKENS.make(request, "u1", ["i1"], NOW_MS + 1_000 * seconds)
        clicks.add(judged(token, request_id=request).event.key)
    assert len(clicks) == 1


def test_nothing_happened_before_its_list() -> None:
    assert judged(event_time_ms=NOW_MS - LIFE_MS).event.event_time_ms == NOW_MS
    assert judged(event_time_ms=NOW_MS - LIFE_MS, type=EventType.DWELL).event.event_time_ms == NOW_MS


def test_the_key_of_tokens_depends_on_the_whole_file() -> None:
    long = [b"k" * 100 + end for end in (b"a", b"b")]
    assert len({ItemTokens(key, RULES).make("r", "u", ["i"], NOW_MS)[0] for key in long}) == 2
