"""Load generation: a world's users as clients of the API. They come, ask for lists, respond to them, and leave.

The load is open: a visit begins when it is due by the world's daily rhythm, whether or not earlier ones were answered.
Thousands of visits run at once, each a coroutine. A visitor uses only the public API (`recsys.client`), so nothing of
the world's truth reaches the recommender except what users do.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from recsys.client.calls import outcome
from recsys.client.models import ApiError, EventResults, Recommendations
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.types import MS_PER_DAY, EventType, Item
from recsys.simulation.actions import Action, actions, changes, row_of
from recsys.simulation.behavior import Behavior, Visitor
from recsys.simulation.world import Ints, World

_CONTEXT = {"client": "simulated"}
_PUT = 500  # items in one request


class Lists(Protocol):
    """What a visitor needs of the API: `recsys.client.AsyncClient` has it."""

    async def recommend(
        self,
        user_id: str,
        k: int | None = None,
        context: Mapping[str, str] = ...,
        exclude: Iterable[str] = ...,
    ) -> Recommendations: ...

    async def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults: ...


class Shop(Lists, Protocol):
    """And what changes the catalogue."""

    async def put_items(self, items: Sequence[Item]) -> None: ...

    async def delete_item(self, item_id: str) -> None: ...


@dataclass(frozen=True)
class VisitConfig:
    """How a day of the world is played.

    `rate`: mean visits per second over the day; `day_s`: duration of the day; `k`: items per list; `max_lists`: per
    visit; `reading`: share of the reading time to wait, in the day's time; `announce_s`: interval between updates of
    the catalogue.
    """

    rate: float = 10.0
    day_s: float = 60.0
    k: int = 20
    day: int = 0
    max_lists: int = 10
    reading: float = 1.0
    announce_s: float = 1.0


@dataclass
class Visits:
    """Counts; `seconds` of each answered list."""

    begun: int = 0
    stayed_away: int = 0  # a dissatisfied user who did not come
    lists: int = 0
    refused: int = 0  # requests without an answer
    items_came: int = 0
    items_went: int = 0
    most_at_once: int = 0
    events: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, other: "Visits") -> None:
        """Add another day."""
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            setattr(self, f.name, max(mine, theirs) if f.name == "most_at_once" else mine + theirs)


class Population:
    """The visitors of one world, whose state lasts from one visit to the next."""

    def __init__(self, world: World, behavior: Behavior | None = None) -> None:
        self.world = world
        self.behavior = behavior or Behavior(world)
        self._visitors: dict[int, Visitor] = {}

    def visitor(self, row: int) -> Visitor:
        if row not in self._visitors:
            self._visitors[row] = self.behavior.visitor(row)
        return self._visitors[row]


async def visit(
    shop: Shop,
    population: Population,
    row: int,
    now_ms: Callable[[], int],
    config: VisitConfig,
    wait: Callable[[float], Any],
    visits: Visits,
) -> None:
    """One visit of one user: lists until the user has enough, excluding what the visit has shown, as a feed's client
    does. `wait` takes seconds of the world."""
    behavior, visitor = population.behavior, population.visitor(row)
    if visitor.shown and not behavior.returns(visitor):
        visits.stayed_away += 1
        return
    visits.begun += 1
    behavior.begin_session(visitor)
    seen: set[str] = set()
    for _ in range(config.max_lists):
        began = time.perf_counter()
        try:
            answer = await shop.recommend(f"u{row}", config.k, _CONTEXT, sorted(seen))
        except (Unavailable, ApiError):
            visits.refused += 1
            return
        visits.seconds.append(time.perf_counter() - began)
        visits.lists += 1
        visits.degraded.update(answer.degraded)
        if not answer.items:  # nothing more to show
            return
        seen.update(item.item_id for item in answer.items)
        rows = _rows(population.world, answer)
        response = behavior.respond(visitor, rows, now_ms())
        done = actions(population.world, rows, response)
        if done:
            await wait(config.reading * done[-1].after_ms / 1e3)
            await _report(shop, answer, done, now_ms(), visits)
        if not response.stays:
            return


def _rows(world: World, answer: Recommendations) -> Ints:
    rows = np.array([row_of(item.item_id) for item in answer.items], np.int64)
    if ((rows < 0) | (rows >= len(world.quality))).any():
        raise InvalidConfig(
            "the API's catalogue is not this world's: import it with `recsys simulate history`"
        )
    return rows


async def _report(
    shop: Shop, answer: Recommendations, done: Sequence[Action], time_ms: int, visits: Visits
) -> None:
    """Send all actions at once, after the reading, with the world's time, as from a client's clock."""
    events = []
    for action in done:
        value = {} if action.value is None else {"value": action.value}
        events.append(outcome(str(action.type), answer, action.position, event_time_ms=time_ms, **value))
    try:
        await shop.send(events)
    except (Unavailable, ApiError):
        visits.refused += 1
        return
    visits.events.update(str(action.type) for action in done)


async def play_day(
    shop: Shop,
    population: Population,
    config: VisitConfig,
    stop: threading.Event | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] = asyncio.sleep,
) -> Visits:
    """Play one day of the world within `day_s` seconds, starting each visit when it is due.

    Raises:
        InvalidConfig: the world has fewer visits a day than the rate needs.
    """
    world, visits = population.world, Visits()
    users, due_s = _due(world, config)
    start_ms = world.config.start_ms + config.day * MS_PER_DAY
    began = monotonic()
    speed = 86_400 / config.day_s

    def now_ms() -> int:
        return start_ms + int((monotonic() - began) * speed * 1e3)

    async def wait(world_seconds: float) -> None:
        await sleep(world_seconds / speed)

    announcing = asyncio.create_task(
        _announce(shop, world, start_ms, now_ms, visits, sleep, config.announce_s)
    )
    running: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            failed.append(error)

    for row, due in zip(users.tolist(), due_s.tolist(), strict=True):
        if failed or announcing.done() or (stop and stop.is_set()):
            break
        if (ahead := began + due - monotonic()) > 0:
            await sleep(ahead)
        task = asyncio.create_task(visit(shop, population, row, now_ms, config, wait, visits))
        running.add(task)
        visits.most_at_once = max(visits.most_at_once, len(running))
        task.add_done_callback(done)
    if running:
        await asyncio.wait(running)
    if announcing.done():
        failed += [error] if (error := announcing.exception()) else []
    announcing.cancel()
    if failed:
        raise failed[0]
    return visits


def _due(world: World, config: VisitConfig) -> tuple[Ints, np.ndarray[Any, np.dtype[np.float64]]]:
    """Who comes, and after how many seconds: an ordered sample of the world's visits of the day."""
    users, times = world.visits(config.day)
    wanted = round(config.rate * config.day_s)
    if wanted > len(users):
        raise InvalidConfig(
            f"{wanted} visits are requested, but the world has {len(users)} on day {config.day}: use more users"
        )
    rng = np.random.default_rng((world.config.seed, 4, config.day))
    chosen = np.sort(rng.choice(len(users), wanted, replace=False))
    start_ms = world.config.start_ms + config.day * MS_PER_DAY
    return users[chosen], (times[chosen] - start_ms) / MS_PER_DAY * config.day_s


async def _announce(
    shop: Shop,
    world: World,
    start_ms: int,
    now_ms: Callable[[], int],
    visits: Visits,
    sleep: Callable[[float], Any],
    every_s: float,
) -> None:
    """Send new and expired items to the API, as a shop's catalogue service would. After an outage it catches up."""
    told_ms = start_ms
    while True:
        await sleep(every_s)
        until_ms = now_ms()
        came, went = changes(world, told_ms, until_ms)
        try:
            for first in range(0, len(came), _PUT):
                await shop.put_items(came[first : first + _PUT])
            for item_id in went:
                await shop.delete_item(item_id)
        except Unavailable:
            continue
        visits.items_came += len(came)
        visits.items_went += len(went)
        told_ms = until_ms


def figures(visits: Visits, took_s: float) -> dict[str, float]:
    """Figures by name."""
    p50, p99 = np.percentile(visits.seconds, [50, 99]) * 1e3 if visits.seconds else (np.nan, np.nan)
    shown = max(visits.lists, 1)
    return {
        "visits": visits.begun,
        "stayed_away": visits.stayed_away,
        "lists": visits.lists,
        "refused": visits.refused,
        "most_visits_at_once": visits.most_at_once,
        "items_came": visits.items_came,
        "items_went": visits.items_went,
        "clicks_per_list": visits.events[str(EventType.CLICK)] / shown,
        "events_per_s": sum(visits.events.values()) / took_s,
        "lists_per_s": visits.lists / took_s,
        "degraded_share": sum(visits.degraded.values()) / shown,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }
