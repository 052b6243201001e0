"""The world: the same seed gives the same world, and better lists get better answers."""

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.simulation.behavior import Behavior, BehaviorConfig, Visitor
from recsys.simulation.world import Ints, World, WorldConfig, create_world

CONFIG = WorldConfig(seed=3, users=300, items=800, new_items_per_day=20, days=10)
LIST = 10
Policy = Callable[[Visitor, Ints, int], Ints]


@pytest.fixture(scope="module")
def world() -> World:
    return create_world(CONFIG)


def clicks_of(world: World, policy: Policy, sessions: int = 3) -> int:
    """Clicks that a policy gets when every user visits a few times, under common random numbers."""
    behavior = Behavior(world)
    total = 0
    for row in range(CONFIG.users):
        visitor = behavior.visitor(row)
        for session in range(sessions):
            now_ms = CONFIG.start_ms + session * MS_PER_DAY
            behavior.begin_session(visitor)
            shown = policy(visitor, world.alive(now_ms), now_ms)
            total += int(behavior.respond(visitor, shown, now_ms).clicked.sum())
    return total


def test_the_oracle_beats_popularity_and_random_is_the_floor(world: World) -> None:
    behavior = Behavior(world)
    rng = np.random.default_rng(0)
    popular = np.zeros(len(world.quality))
    for row in range(CONFIG.users):
        popular += behavior.attraction(behavior.visitor(row), np.arange(len(popular)), CONFIG.start_ms)

    def oracle(visitor: Visitor, alive: Ints, now_ms: int) -> Ints:
        return alive[np.argsort(-behavior.attraction(visitor, alive, now_ms))[:LIST]]

    def popularity(visitor: Visitor, alive: Ints, now_ms: int) -> Ints:
        return alive[np.argsort(-popular[alive])[:LIST]]

    def chance(visitor: Visitor, alive: Ints, now_ms: int) -> Ints:
        return rng.choice(alive, LIST, replace=False)

    best, middle, floor = (clicks_of(world, policy) for policy in (oracle, popularity, chance))
    assert best > 1.5 * middle
    assert middle > 1.2 * floor


def test_the_same_seed_gives_the_same_world_and_answers(world: World) -> None:
    again = create_world(CONFIG)
    np.testing.assert_array_equal(again.item_vector, world.item_vector)
    np.testing.assert_array_equal(again.user_taste, world.user_taste)
    other = create_world(CONFIG.model_copy(update={"seed": 4}))
    assert not np.array_equal(other.user_taste, world.user_taste)

    rows = np.arange(LIST)
    first, second = (
        Behavior(w).respond(Behavior(w).visitor(5), rows, CONFIG.start_ms) for w in (world, again)
    )
    np.testing.assert_array_equal(first.clicked, second.clicked)
    np.testing.assert_array_equal(first.dwell_ms, second.dwell_ms)


def test_users_do_not_disturb_each_other(world: World) -> None:
    behavior, rows = Behavior(world), np.arange(LIST)
    alone = behavior.respond(behavior.visitor(7), rows, CONFIG.start_ms)
    behavior.respond(behavior.visitor(8), rows, CONFIG.start_ms)
    after_another = behavior.respond(behavior.visitor(7), rows, CONFIG.start_ms)
    np.testing.assert_array_equal(alone.clicked, after_another.clicked)


def test_outcomes_need_what_comes_before_them(world: World) -> None:
    behavior = Behavior(world, BehaviorConfig(click_bias=0.0))
    seen = dict.fromkeys(("clicked", "liked", "added", "purchased"), 0)
    for row in range(CONFIG.users):
        r = behavior.respond(behavior.visitor(row), np.arange(LIST), CONFIG.start_ms)
        assert (r.examined | ~r.clicked).all()
        assert (r.clicked | ~r.liked).all()
        assert (r.clicked | ~r.added).all()
        assert (r.added | ~r.purchased).all()
        assert ((r.dwell_ms > 0) == r.clicked).all()
        for name in seen:
            seen[name] += int(getattr(r, name).sum())
    assert all(seen.values()), seen


def test_lower_positions_are_clicked_less(world: World) -> None:
    behavior = Behavior(world, BehaviorConfig(sameness_fatigue=0.0))
    rng = np.random.default_rng(1)
    clicks = np.zeros(LIST)
    for row in range(CONFIG.users):
        visitor = behavior.visitor(row)
        for _ in range(10):
            clicks += behavior.respond(visitor, rng.choice(800, LIST, replace=False), CONFIG.start_ms).clicked
    assert clicks[:2].sum() > 1.5 * clicks[-2:].sum()


def test_repeats_tire(world: World) -> None:
    behavior, visitor, rows = Behavior(world), Behavior(world).visitor(0), np.arange(LIST)
    fresh = behavior.attraction(visitor, rows, CONFIG.start_ms)
    visitor.shown = dict.fromkeys(rows.tolist(), 2)
    assert (behavior.attraction(visitor, rows, CONFIG.start_ms) < fresh).all()


def test_items_come_and_go(world: World) -> None:
    first, last = world.alive(CONFIG.start_ms), world.alive(CONFIG.start_ms + 9 * MS_PER_DAY)
    assert len(first) == 800
    assert set(last.tolist()) - set(first.tolist())
    assert set(first.tolist()) - set(last.tolist())
    assert (world.born_ms[last] <= CONFIG.start_ms + 9 * MS_PER_DAY).all()


def test_visits_are_ordered_and_follow_the_rhythm(world: World) -> None:
    users, times = world.visits(2)
    again_users, again_times = world.visits(2)
    np.testing.assert_array_equal(users, again_users)
    np.testing.assert_array_equal(times, again_times)
    start = CONFIG.start_ms + 2 * MS_PER_DAY
    assert (np.diff(times) >= 0).all()
    assert start <= times.min() <= times.max() < start + MS_PER_DAY
    hours = np.bincount((times - start) // MS_PER_HOUR, minlength=24)
    assert hours[18:23].sum() > 3 * hours[3:8].sum()


def test_the_catalogue_tells_nothing_of_the_truth(world: World) -> None:
    item = world.item(3)
    assert item.item_id == "i3"
    assert set(item.attributes) == {"price", "duration_ms"}


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="userz"):
        WorldConfig.model_validate({"userz": 3})
