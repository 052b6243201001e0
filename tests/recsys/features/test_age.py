"""Ages of features: exact to a tile, none where no event is behind a feature."""

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, EventType
from recsys.features.age import ages
from recsys.features.definitions import FEATURES

NOW_MS = 20_000 * MS_PER_DAY + 15 * MS_PER_HOUR


def folded(*events: Event) -> tuple[EntityState, EntityState]:
    user, item = EntityState(), EntityState()
    for event in events:
        found = FEATURES.fold(event)
        for delta in found.user:
            user.change(delta)
        for delta in found.of_item(set()):
            item.change(delta)
        for history, visit in found.visits:
            user.visit(history, Visit(*visit))
    return user, item


def click(at: int) -> Event:
    return Event(f"e{at}", EventType.CLICK, "u", "i", at, request_id="r", context={"categories": "a"})


def test_ages_are_those_of_the_newest_event_that_counts() -> None:
    user, item = folded(click(NOW_MS - 3 * MS_PER_DAY), click(NOW_MS - 20 * MS_PER_MINUTE))
    (found,) = ages(FEATURES, user, [item], NOW_MS)
    assert set(found) == {feature.name for feature in FEATURES.features}
    # kept to the millisecond: histories and times
    assert found["user_seconds_since_engaged"] == 20 * MS_PER_MINUTE
    assert found["item_seconds_since_engaged"] == 20 * MS_PER_MINUTE
    # five-minute tiles; all columns of one feature share its newest event
    assert found["item_engaged"] == 20 * MS_PER_MINUTE
    # the profile as of last midnight does not count what happened today
    assert found["user_clicks"] is not None
    assert 2 * MS_PER_DAY < found["user_clicks"] <= 4 * MS_PER_DAY
    # nobody was shown anything, an attribute has no events, nor has the clock
    assert found["item_in_history"] == 20 * MS_PER_MINUTE
    for nothing in ("user_ratings", "user_age", "hour", "item_year"):
        assert found[nothing] is None


def test_nothing_is_known_of_nobody() -> None:
    (found,) = ages(FEATURES, EntityState(), [EntityState()], NOW_MS)
    assert not any(found.values())
