"""A seeded log for feature benchmarks: users, items, and events of every type, out of order and with duplicates."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from infra.evaluation.load.traffic import CATEGORIES
from recsys.contracts.events import Event, derived_id, item_context, told_apart
from recsys.contracts.types import MS_PER_DAY, EventType, Item, User
from recsys.datasets.base import USER_SCHEMA
from recsys.datasets.catalogue import items_path, users_path
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet

_MIX = {
    EventType.IMPRESSION: 10,
    EventType.CLICK: 4,
    EventType.DWELL: 4,
    EventType.LIKE: 1,
    EventType.ADD_TO_CART: 1,
    EventType.PURCHASE: 1,
    EventType.RATING: 1,
}


@dataclass(frozen=True)
class FeatureFixture:
    """Low numbers are popular: user and item k are drawn in proportion to k^-1/2. The log starts at `start_ms`."""

    users: list[User]
    items: list[Item]
    start_ms: int
    seed: int

    @classmethod
    def make(cls, users: int, items: int, days: float, seed: int) -> "FeatureFixture":
        """Users and items of a log of `days` that ends a day ago."""
        rng = random.Random(seed)  # noqa: S311
        end_ms = time.time_ns() // 1_000_000 // MS_PER_DAY * MS_PER_DAY - MS_PER_DAY
        start_ms = end_ms - round(days * MS_PER_DAY)
        creators = ["", *(f"creator-{c}" for c in range(items // 20 + 1))]
        return cls(
            users=[User(f"user-{u}", {"age": str(18 + u % 60)}) for u in range(users)],
            items=[
                Item(
                    f"item-{i}",
                    categories=tuple(rng.sample(CATEGORIES, rng.randint(0, 5))),
                    creator=rng.choice(creators),
                    created_ms=rng.choice([0, start_ms - rng.randrange(90 * MS_PER_DAY)]),
                    attributes={"duration_ms": str(rng.randrange(300_000))} if rng.random() < 0.9 else {},
                )
                for i in range(items)
            ],
            start_ms=start_ms,
            seed=seed,
        )

    def user(self, rng: random.Random) -> User:
        return self.users[int(len(self.users) * rng.random() ** 2)]

    def user_of(self, user_id: str) -> User:
        return self.users[int(user_id.removeprefix("user-"))]

    def write_tables(self, lake: Path) -> None:
        """Write the item and user tables."""
        users = {
            "user_id": [u.user_id for u in self.users],
            "attributes": [list(u.attributes.items()) for u in self.users],
        }
        write_parquet(items_path(lake), items_table(self.items))
        write_parquet(users_path(lake), pa.table(users, schema=USER_SCHEMA))

    def log(
        self,
        n: int,
        first_ms: int,
        length_ms: int,
        late_ms: int = 0,
        repeated: float = 0.0,
        name: str = "log",
        shown: bool = True,
    ) -> list[Event]:
        """`n` events of [first, first + length) by arrival: each up to `late_ms` late, the share `repeated` twice.
        `shown`: with impressions, which no client may report."""
        rng = random.Random(f"{self.seed} {name}")  # noqa: S311
        mix = {kind: weight for kind, weight in _MIX.items() if shown or kind is not EventType.IMPRESSION}
        kinds, weights = list(mix), list(mix.values())
        arrivals: list[tuple[int, int, Event]] = []
        for i in range(n):
            time_ms = first_ms + rng.randrange(length_ms)
            item = self.items[int(len(self.items) * rng.random() ** 2)]
            kind = rng.choices(kinds, weights)[0]
            value = _value(kind, rng)
            event = Event(
                event_id=derived_id(time_ms, self.seed, name, i),
                type=told_apart(kind, value),
                user_id=self.user(rng).user_id,
                item_id=item.item_id,
                event_time_ms=time_ms,
                request_id=f"{name}-{rng.randrange(n)}" if rng.random() < 0.8 else None,
                position=i % 40 if kind is EventType.IMPRESSION else None,
                value=value,
                context=item_context({}, item.categories, item.creator) | {"tab": str(rng.randrange(4))},
            )
            copies = 2 if rng.random() < repeated else 1
            arrivals += [(time_ms + rng.randrange(late_ms + 1), i + n * c, event) for c in range(copies)]
        return [event for *_, event in sorted(arrivals, key=lambda a: a[:2])]


def _value(kind: EventType, rng: random.Random) -> float | None:
    if kind is EventType.DWELL:
        return rng.choice([None, 0.0, round(rng.lognormvariate(9, 1), 1)])
    return rng.randrange(1, 11) / 2 if kind is EventType.RATING else None
