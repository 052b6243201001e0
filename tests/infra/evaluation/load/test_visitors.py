"""Simulated users over the API: due by the day's curve, as many as configured, sending only what users do."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from infra.evaluation.load.visitors import Population, Shop, VisitConfig, Visits, play_day
from recsys.client import AsyncClient
from recsys.client.models import EventResults, Recommendations, RecommendedItem
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.events import parse_event
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Item
from recsys.simulation.actions import actions, changes, row_of
from recsys.simulation.behavior import Behavior, BehaviorConfig
from recsys.simulation.world import WorldConfig, create_world

CONFIG = WorldConfig(seed=5, users=300, items=200, new_items_per_day=40, days=4, item_life_days=3)
WORLD = create_world(CONFIG)
KEEN = Behavior(WORLD, BehaviorConfig(click_bias=0.0))


SHOWN = tuple(f"i{row}" for row in range(20))


class Clock:
    """Time passes when everybody sleeps, to when the first one wakes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        me = (self.now + seconds, len(self._sleepers) + id(asyncio.current_task()))
        self._sleepers.append(me)
        try:
            while True:
                for _ in range(10):  # who is awake goes first
                    await asyncio.sleep(0)
                if min(self._sleepers) == me:
                    self.now = max(self.now, me[0])
                    return
        finally:
            self._sleepers.remove(me)


class FakeShop:
    """Shows the same list to everybody, and remembers what it is told."""

    def __init__(self, clock: Clock, up: bool = True, items: Sequence[str] = SHOWN) -> None:
        self.clock = clock
        self.up = up
        self.items = items
        self.asked: list[tuple[float, str]] = []
        self.excluded: list[set[str]] = []
        self.shown: dict[str, list[str]] = {}
        self.events: list[Mapping[str, Any]] = []
        self.came: list[Item] = []
        self.went: list[str] = []

    async def recommend(
        self, user_id: str, k: int | None = None, context: Mapping[str, str] = {}, exclude: Iterable[str] = ()
    ) -> Recommendations:
        if not self.up:
            raise Unavailable("away")
        self.asked.append((self.clock(), user_id))
        self.excluded.append(set(exclude))
        left = [item_id for item_id in self.items if item_id not in self.excluded[-1]]
        self.shown[f"r{len(self.asked)}"] = left[:k]
        lines = tuple(RecommendedItem(item_id, 1.0) for item_id in left[:k])
        return Recommendations(f"r{len(self.asked)}", user_id, "b", lines, (), 1.0)

    async def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults:
        self.events += events
        return EventResults(len(events), 0, ())

    async def put_items(self, items: Sequence[Item]) -> None:
        self.came += items

    async def delete_item(self, item_id: str) -> None:
        self.went.append(item_id)


def play(shop: FakeShop, stop: threading.Event | None = None, **config: Any) -> Visits:
    chosen = VisitConfig(**{"rate": 2.0, "day_s": 96.0, "k": 10, "reading": 0.0, **config})
    population = Population(WORLD, KEEN)
    return asyncio.run(play_day(shop, population, chosen, stop, shop.clock, shop.clock.sleep))


def test_the_day_has_as_many_visits_as_asked_at_the_hours_of_the_world() -> None:
    shop = FakeShop(Clock())
    visits = play(shop)
    assert visits.begun + visits.stayed_away == 192
    assert visits.lists == len(shop.asked) >= visits.begun
    hours = np.bincount((np.array([at for at, _ in shop.asked]) / 4).astype(int), minlength=24)
    assert hours[18:23].sum() > 2 * hours[3:8].sum(), "four seconds an hour: the evening is busy"


def test_a_visit_asks_for_nothing_twice_and_ends_where_there_is_nothing_more() -> None:
    shop = FakeShop(Clock())
    visits = play(shop)
    assert {len(excluded) for excluded in shop.excluded} == {0, 10, 20}, "20 items, 10 a list"
    assert shop.excluded.count(set()) == visits.begun, "another visit starts from scratch"


def test_days_add_up() -> None:
    both = Visits(lists=3, most_at_once=5, events=Counter(click=2), seconds=[0.1])
    both.add(Visits(lists=4, most_at_once=2, events=Counter(click=1, like=1), seconds=[0.2]))
    assert both == Visits(lists=7, most_at_once=5, events=Counter(click=3, like=1), seconds=[0.1, 0.2])


def test_events_keep_the_contract_and_belong_to_what_was_shown() -> None:
    shop = FakeShop(Clock())
    visits = play(shop)
    assert visits.events == Counter(e["type"] for e in shop.events)
    assert visits.events[EventType.CLICK] > 20
    for event in shop.events:
        parsed = parse_event({"event_id": "e", **event})
        assert 0 <= parsed.event_time_ms - CONFIG.start_ms < MS_PER_DAY + MS_PER_HOUR, "the world's time"
        assert parsed.request_id is not None
        assert parsed.position is not None
        assert shop.shown[parsed.request_id][parsed.position] == parsed.item_id
    clicks = {(e["request_id"], e["item_id"]) for e in shop.events if e["type"] == "click"}
    assert all((e["request_id"], e["item_id"]) in clicks for e in shop.events)
    allowed = {"event_id", "type", "user_id", "item_id", "request_id", "position", "value", "event_time_ms"}
    assert all(event.keys() <= allowed for event in shop.events), "nothing of the truth"


def test_the_shop_hears_of_new_and_expired_items() -> None:
    shop = FakeShop(Clock())
    visits = play(shop, day=1)
    start = CONFIG.start_ms + MS_PER_DAY
    end = start + MS_PER_DAY * 98 // 96  # it is told every second, and the day has 96
    born = {f"i{r}" for r in np.flatnonzero((WORLD.born_ms > start) & (WORLD.born_ms <= end))}
    told = {item.item_id for item in shop.came}
    assert told <= born
    assert len(told) > 0.6 * len(born), "what came, but for the last minutes and what went at once"
    assert len(shop.went) == visits.items_went > 10
    assert all(set(item.attributes) == {"price", "duration_ms"} for item in shop.came)


def test_an_api_that_is_away_costs_its_requests_only() -> None:
    visits = play(FakeShop(Clock(), up=False))
    assert visits.refused == visits.begun > 0
    assert visits.lists == 0


def test_another_catalogue_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="not this world's"):
        play(FakeShop(Clock(), items=["movie-1"]))


def test_a_world_with_too_few_visits_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="more users"):
        play(FakeShop(Clock()), rate=100.0)


def test_it_stops_when_told() -> None:
    stop = threading.Event()
    stop.set()
    assert play(FakeShop(Clock()), stop).begun == 0


def test_the_python_client_is_such_a_shop() -> None:
    shop: Shop = AsyncClient("http://127.0.0.1:9")
    assert shop


def test_actions_come_in_order_and_follow_from_clicks() -> None:
    rows = np.arange(20)
    for user in range(30):
        response = KEEN.respond(KEEN.visitor(user), rows, CONFIG.start_ms)
        found = actions(WORLD, rows, response)
        assert [a.after_ms for a in found] == sorted(a.after_ms for a in found)
        kinds = Counter(a.type for a in found)
        assert kinds[EventType.CLICK] == kinds[EventType.DWELL] == response.clicked.sum()
        assert kinds[EventType.PURCHASE] == response.purchased.sum()
        for a in found:
            if a.type is EventType.PURCHASE:
                assert a.value == pytest.approx(WORLD.price[a.row])


def test_changes_of_adjoining_times_are_all_changes_once() -> None:
    start = CONFIG.start_ms
    whole = changes(WORLD, start, start + MS_PER_DAY)
    halves = [
        changes(WORLD, start + h * MS_PER_DAY // 2, start + (h + 1) * MS_PER_DAY // 2) for h in range(2)
    ]
    came = [item.item_id for part in halves for item in part[0]]
    assert {item.item_id for item in whole[0]} <= set(came)
    assert len(came) == len(set(came))
    assert sorted(whole[1]) == sorted(i for part in halves for i in part[1])


def test_rows_of_ids() -> None:
    assert [row_of(i) for i in ("i17", "x17", "i", "i-1", "i٣", "")] == [17, -1, -1, -1, -1, -1]
