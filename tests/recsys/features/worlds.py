"""Small random logs for the tests of features: users, items and events that often collide in time."""

import random
from collections.abc import Sequence
from itertools import count

from hypothesis import strategies as st

from recsys.contracts.events import CATEGORIES, CREATOR, Event
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, NARROWED, EventType, Item, User

START_MS = 19_100 * MS_PER_DAY
_TYPES = [*EventType, EventType.IMPRESSION, EventType.IMPRESSION, EventType.CLICK]


def catalogue(rng: random.Random, n: int = 8) -> list[Item]:
    return [
        Item(
            item_id=f"item-{i}",
            categories=tuple(
                rng.sample(["Action", "Comedy", "Drama", "Été", "War", "Sci-Fi"], rng.randint(0, 6))
            ),
            creator=rng.choice(["", "ann", "bob"]),
            created_ms=rng.choice([0, START_MS - MS_PER_DAY, START_MS + 2 * MS_PER_DAY]),
            attributes=rng.choice(
                [{}, {"duration_ms": "12000"}, {"duration_ms": "x", "release_year": "1999"}]
            ),
        )
        for i in range(n)
    ]


def population(rng: random.Random, n: int = 3) -> list[User]:
    return [
        User(f"user-{u}", rng.choice([{}, {"age": "33"}, {"register_days": "7.5", "age": "nan"}]))
        for u in range(n)
    ]


def random_log(
    rng: random.Random,
    users: list[User],
    items: list[Item],
    n: int,
    span_ms: int,
    types: Sequence[EventType] = _TYPES,
) -> list[Event]:
    """`n` events in `START_MS` … + `span_ms`, on a coarse grid of times so that ties and tile edges happen. Each user
    counts their own event ids, so all of them are used by several users."""
    step = rng.choice([1, 1000, MS_PER_MINUTE, 5 * MS_PER_MINUTE])
    events = []
    counts = {user.user_id: count() for user in users}
    for i in range(n):
        time = START_MS + rng.randrange(span_ms) // step * step
        user_id, item, kind = rng.choice(users).user_id, rng.choice(items), rng.choice(types)
        value: float | None = None
        if kind is EventType.DWELL:
            value = rng.choice([None, -1.0, 0.5, 1500.0, 2500.5, 60_000.0])
        elif kind is EventType.RATING:
            value = rng.choice([None, 0.5, 3.5, 4.0, 5.0])
        elif kind is EventType.IMPRESSION:
            value = rng.choice([None, None, NARROWED])
        context = {CATEGORIES: CATEGORY_SEPARATOR.join(item.categories), CREATOR: item.creator, "tab": "1"}
        events.append(
            Event(
                event_id=f"{next(counts[user_id]):04d}",
                type=kind,
                user_id=user_id,
                item_id=item.item_id,
                event_time_ms=time,
                request_id=rng.choice([None, f"r{i}"]),
                position=rng.choice([None, 0, 1, 9, 99, 150]),
                value=value,
                context={k: v for k, v in context.items() if v},
            )
        )
    return events


@st.composite
def sparse_logs(draw: st.DrawFn) -> tuple[list[User], list[Item], list[Event]]:
    """Logs with few or no events, of some types only: a shop that logs purchases only, items nobody engaged with."""
    types = draw(st.lists(st.sampled_from(EventType), min_size=1, max_size=3, unique=True))
    rng = random.Random(draw(st.integers(0, 99)))
    users, items = population(rng, draw(st.integers(1, 3))), catalogue(rng, draw(st.integers(1, 3)))
    span = draw(st.sampled_from([1, MS_PER_MINUTE, 3 * MS_PER_DAY]))
    return users, items, random_log(rng, users, items, draw(st.integers(0, 12)), span, types)
