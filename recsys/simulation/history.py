"""The log of a simulated shop, written into the lake as an import would write it.

The shop shows best sellers mixed with items drawn at random, so that the log covers the catalogue. Only events and
the catalogue are written; the world's ground truth stays out of the lake.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.events import CATEGORIES, CREATOR, Event, derived_id
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import MS_PER_DAY, NARROWED, EventType
from recsys.datasets.catalogue import items_path
from recsys.items.item_table import items_table
from recsys.lake.lake import EVENTS, day_writer, events_table, write_parquet
from recsys.simulation.actions import actions
from recsys.simulation.behavior import Behavior, Visitor
from recsys.simulation.world import Ints, World

_CHUNK = 50_000  # events in one table
_POOL = 200  # best sellers that are shown


@dataclass(frozen=True)
class HistoryConfig:
    """What the shop showed. `days` counts from the world's first day."""

    days: int = 7
    k: int = 10
    popular_share: float = 0.5  # of a list's positions; the others are drawn from all live items
    max_lists: int = 5  # per session
    narrowed_share: float = 0.0  # of the lists: as if the visitor had filtered them


@dataclass(frozen=True)
class SimulatedHistory:
    """Counts of what was written."""

    sessions: int
    events: int


def write_history(
    world: World, lake: Path, config: HistoryConfig, behavior: Behavior | None = None
) -> SimulatedHistory:
    """Simulate the days and write the lake's events and catalogue. The same world gives the same lake."""
    sessions = events = 0
    with day_writer(lake, EVENTS, f"world-{world.config.seed}") as writer:
        held: list[Event] = []

        def flush() -> int:
            if held:
                writer.write(events_table(held))
            written = len(held)
            held.clear()
            return written

        for session in _sessions(world, behavior or Behavior(world), config):
            sessions += 1
            held += session
            if len(held) >= _CHUNK:
                events += flush()
        events += flush()
    # Later items arrive over the API, as they do in a real shop.
    items = [
        world.item(row) for row in world.alive(world.config.start_ms + config.days * MS_PER_DAY).tolist()
    ]
    write_parquet(items_path(lake), items_table(sorted(items, key=lambda item: item.item_id)))
    return SimulatedHistory(sessions, events)


def _sessions(world: World, behavior: Behavior, config: HistoryConfig) -> Iterator[list[Event]]:
    """The events of one session after the other, in order of their start."""
    shop, visitors = _Shop(world, config), dict[int, Visitor]()
    rng = np.random.default_rng((world.config.seed, 5))
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
                rows = shop.show()
                response = behavior.respond(visitor, rows, now_ms)
                done = actions(world, rows, response)
                shop.count(rows[response.clicked])
                event = partial(_event, world, user, f"past-{day}-{number}-{page}")
                mark = NARROWED if rng.random() < config.narrowed_share else None
                found += [
                    event(EventType.IMPRESSION, row, now_ms, position, mark)
                    for position, row in enumerate(rows.tolist())
                ]
                found += [event(a.type, a.row, now_ms + a.after_ms, a.position, a.value) for a in done]
                now_ms += 1_000 + (done[-1].after_ms if done else 0)
                if not response.stays:
                    break
            yield found


def _event(
    world: World,
    user: int,
    request_id: str,
    kind: EventType,
    row: int,
    time_ms: int,
    position: int,
    value: float | None = None,
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


class _Shop:
    """Shows best sellers by clicks so far, and random items."""

    def __init__(self, world: World, config: HistoryConfig) -> None:
        self._world = world
        self._config = config
        self._clicks = np.zeros(len(world.quality))
        self._rng = np.random.default_rng((world.config.seed, 3))
        self._alive: Ints = np.empty(0, np.int64)
        self._best: Ints = np.empty(0, np.int64)

    def open(self, now_ms: int) -> None:
        """Begin a day: find the items that exist now and the best sellers so far."""
        self._alive = self._world.alive(now_ms)
        order = np.argsort(-self._clicks[self._alive], kind="stable")
        self._best = self._alive[order[:_POOL]]

    def show(self) -> Ints:
        k = min(self._config.k, len(self._alive))
        popular = self._rng.random(k) < self._config.popular_share
        drawn = np.where(popular, self._rng.choice(self._best, k), self._rng.choice(self._alive, k))
        first: NDArray[np.int64] = np.unique(drawn, return_index=True)[1]
        return drawn[np.sort(first)]

    def count(self, rows: Ints) -> None:
        np.add.at(self._clicks, rows, 1)
