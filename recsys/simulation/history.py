"""The world before the recommender: days of lists by a simple shop, written into the lake as any import would be.

The shop shows what sells, mixed with what is new or drawn at random, so that the log covers the catalogue. Models
train on it; nothing but the events and the catalogue is written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.contracts.events import CATEGORIES, CATEGORY_SEPARATOR, CREATOR, Event, derived_id
from recsys.contracts.types import EventType, Item
from recsys.datasets.base import ITEM_SCHEMA
from recsys.lake.lake import EVENTS, DayWriter, events_table, write_parquet
from recsys.simulation.actions import actions
from recsys.simulation.behavior import Behavior, Visitor
from recsys.simulation.world import Ints, World

_CHUNK = 50_000  # events in one table
_POOL = 200  # best sellers that are shown


@dataclass(frozen=True)
class PastConfig:
    """How the shop worked before: `days` from the world's first one."""

    days: int = 7
    k: int = 10
    popular_share: float = 0.5  # of a list's places; the others are drawn from everything that exists
    max_lists: int = 5  # of one session


@dataclass(frozen=True)
class Past:
    """What was written."""

    sessions: int
    events: int


def write_past(world: World, lake: Path, config: PastConfig, behavior: Behavior | None = None) -> Past:
    """Simulate and write `events/` and `items/items.parquet`. The same world gives the same lake."""
    behavior = behavior or Behavior(world)
    shop = _Shop(world, config)
    sessions = events = 0
    with DayWriter(lake, EVENTS, f"world-{world.config.seed}") as writer:
        held: list[Event] = []
        for session in _sessions(world, behavior, config, shop):
            sessions += 1
            held += session
            if len(held) >= _CHUNK:
                writer.write(events_table(held))
                events += len(held)
                held = []
        if held:
            writer.write(events_table(held))
            events += len(held)
    _write_items(world, lake, config)
    return Past(sessions, events)


def _sessions(world: World, behavior: Behavior, config: PastConfig, shop: "_Shop") -> Iterator[list[Event]]:
    visitors: dict[int, Visitor] = {}
    for day in range(config.days):
        users, times = world.visits(day)
        shop.open(int(times[0]) if len(times) else 0)
        for number, (user, start_ms) in enumerate(zip(users.tolist(), times.tolist(), strict=True)):
            visitor = visitors.setdefault(user, behavior.visitor(user))
            if visitor.shown and not behavior.returns(visitor):
                continue
            behavior.begin_session(visitor)
            now_ms, found = start_ms, []
            for page in range(config.max_lists):
                rows = shop.show(user)
                response = behavior.respond(visitor, rows, now_ms)
                done = actions(world, rows, response)
                shop.count(rows[response.clicked])
                request_id = f"past-{day}-{number}-{page}"
                for position, row in enumerate(rows.tolist()):
                    found.append(
                        _event(world, EventType.IMPRESSION, user, row, now_ms, request_id, position, None)
                    )
                found += [
                    _event(world, a.type, user, a.row, now_ms + a.after_ms, request_id, a.position, a.value)
                    for a in done
                ]
                now_ms += 1_000 + (done[-1].after_ms if done else 0)
                if not response.stays:
                    break
            yield found


class _Shop:
    """Best sellers by clicks so far, and the rest at random."""

    def __init__(self, world: World, config: PastConfig) -> None:
        self._world = world
        self._config = config
        self._clicks = np.zeros(len(world.quality))
        self._rng = np.random.default_rng((world.config.seed, 3))
        self._alive: Ints = np.empty(0, np.int64)
        self._best: Ints = np.empty(0, np.int64)

    def open(self, now_ms: int) -> None:
        """A new day: what exists now, and what sold best so far."""
        self._alive = self._world.alive(now_ms)
        order = np.argsort(-self._clicks[self._alive], kind="stable")
        self._best = self._alive[order[:_POOL]]

    def show(self, user: int) -> Ints:
        k = min(self._config.k, len(self._alive))
        popular = self._rng.random(k) < self._config.popular_share
        drawn = np.where(
            popular,
            self._rng.choice(self._best, k),
            self._rng.choice(self._alive, k),
        )
        first: NDArray[np.int64] = np.unique(drawn, return_index=True)[1]
        return drawn[np.sort(first)]

    def count(self, rows: Ints) -> None:
        np.add.at(self._clicks, rows, 1)


def _event(
    world: World,
    kind: EventType,
    user: int,
    row: int,
    time_ms: int,
    request_id: str,
    position: int,
    value: float | None,
) -> Event:
    item = world.item(row)
    return Event(
        event_id=derived_id(time_ms, world.config.seed, request_id, str(kind), position),
        type=kind,
        user_id=f"u{user}",
        item_id=item.item_id,
        event_time_ms=time_ms,
        request_id=request_id,
        position=position,
        value=value,
        context={CATEGORIES: CATEGORY_SEPARATOR.join(item.categories), CREATOR: item.creator},
    )


def _write_items(world: World, lake: Path, config: PastConfig) -> None:
    """The catalogue at the end of the past: later items arrive over the API, as they do in a shop."""
    end_ms = world.config.start_ms + config.days * 86_400_000
    items: list[Item] = [world.item(row) for row in world.alive(end_ms).tolist()]
    items.sort(key=lambda item: item.item_id)
    names = ("item_id", "title", "categories", "creator", "created_ms")
    columns = {name: [getattr(item, name) for item in items] for name in names}
    attributes = [list(item.attributes.items()) for item in items]
    write_parquet(
        lake / "items" / "items.parquet", pa.table(columns | {"attributes": attributes}, schema=ITEM_SCHEMA)
    )
