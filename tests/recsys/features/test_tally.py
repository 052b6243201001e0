"""What a user did by category: a stored state and brute force agree, and as of an instant."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Item, User
from recsys.features.aggregates import bucket_of
from recsys.features.definitions import FEATURES
from recsys.features.reference import ReferenceSource
from recsys.features.tally import TallyReader
from tests.recsys.features.test_three_ways import folded_user
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log

USER = User("u")


def streamed_tally(events: list[Event], user: User, now_ms: int) -> dict[int, tuple[int, int]]:
    bounds, buckets, amounts = TallyReader(FEATURES).read(folded_user(events, user), now_ms)
    assert bounds.tolist() == [0, len(buckets)]
    return dict(zip(buckets.tolist(), map(tuple, amounts.tolist()), strict=True))


def tally_by_brute_force(
    events: list[Event], user: User, item: Item, now_ms: int, merged: Sequence[str] = ()
) -> dict[int, tuple[int, ...]]:
    return ReferenceSource(events, user, item, now_ms, {}, merged).tally(FEATURES.tallied)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_a_state_in_any_order_gives_the_tally_of_brute_force(rng: random.Random, n: int) -> None:
    users, items = population(rng, 2), catalogue(rng, 4)
    span = rng.choice([MS_PER_HOUR, 3 * MS_PER_DAY, 40 * MS_PER_DAY])
    events = random_log(rng, users, items, n, span)
    now_ms = START_MS + span + rng.choice([0, 20 * MS_PER_DAY])
    for user in users:
        found = streamed_tally(rng.sample(events, n), user, now_ms)
        assert found == tally_by_brute_force(events, user, items[0], now_ms)


def shown(position: int | None, day: int, categories: str = "drama|crime") -> Event:
    time_ms = START_MS + day * MS_PER_DAY
    context = {"categories": categories}
    return Event(f"e{position}{day}", EventType.IMPRESSION, "u", "i", time_ms, "r", position, context=context)


def test_looks_and_clicks_of_a_month_by_category() -> None:
    click = Event("c", EventType.CLICK, "u", "i", START_MS + 1, "r", context={"categories": "drama"})
    elsewhere = Event("x", EventType.CLICK, "u", "i", START_MS + 1, context={"categories": "drama"})
    events = [shown(0, 0), shown(9, 0), shown(None, 31), click, elsewhere]
    drama, crime = bucket_of("drama"), bucket_of("crime")
    assert streamed_tally(events, USER, START_MS + MS_PER_DAY) == {drama: (1289, 1), crime: (1289, 0)}
    assert streamed_tally(events, USER, START_MS + 32 * MS_PER_DAY) == {drama: (1000, 0), crime: (1000, 0)}
    assert streamed_tally([], USER, START_MS) == {}
