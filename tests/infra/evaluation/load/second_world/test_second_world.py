"""A simulator behind a pipe as a world: its protocol, its users' log, the baselines, and its users over the API."""

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.evaluation.load.second_world.history import STEP_MS, write_history
from infra.evaluation.load.second_world.policies import at_random, oracle, play, policies
from infra.evaluation.load.second_world.visitors import Day, Pace, Visits
from infra.evaluation.load.second_world.world import ForeignWorld, item_id
from infra.second_world import SecondWorld, result
from recsys.client.models import EventResults, Recommendations, RecommendedItem
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset
from recsys.lake.lake import read_events
from tests.infra.evaluation.load.test_visitors import Clock

FAKE = Path(__file__).with_name("fake_process.py")
PRODUCTS = 4
USERS = range(8)
START_MS = 1_767_225_600_000  # 2026-01-01


@pytest.fixture
def world() -> Iterator[ForeignWorld]:
    with ForeignWorld(Path(sys.executable), PRODUCTS, 0, FAKE) as world:
        yield world


def test_a_user_by_the_protocol(world: ForeignWorld) -> None:
    turn = world.begin(6)
    assert (turn.views, turn.step, turn.done, turn.best) == (((0, 2), (1, 2), (2, 0)), 3, False, 2)
    other = world.begin(7)
    assert world.show(6, 2).clicked
    assert not world.show(7, 2).clicked, "users are apart"
    assert other.best == 3
    assert world.show(6, 0).views == ((5, 1),)
    assert world.show(6, 0).done


def test_without_a_simulator_the_error_says_how_to_install_one(tmp_path: Path) -> None:
    install = r"pip install --no-deps -r .*recogym\.txt"
    with pytest.raises(InvalidConfig, match=install):
        ForeignWorld(tmp_path / "bin" / "python", PRODUCTS, 0)
    with pytest.raises(Unavailable, match=install):  # a Python without RecoGym
        ForeignWorld(Path(sys.executable), PRODUCTS, 0)


def test_a_simulator_that_ends_is_named(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text("print('{\"products\": 2}')")
    with ForeignWorld(Path(sys.executable), PRODUCTS, 0, script) as world, pytest.raises(Unavailable):
        world.begin(0)


def test_baselines_earn_what_the_truth_says(world: ForeignWorld) -> None:
    viewed = [product for user in USERS for _, product in world.begin(user).views]
    earned = {
        name: sum(played.probability for played in play(world, USERS, policy, seed=0).values())
        for name, policy in policies(viewed, PRODUCTS).items()
    }
    assert earned["oracle"] == 3 * len(USERS)
    assert earned["most_viewed"] == 3 * 2, "product 0 is viewed most, two users' own"
    assert earned["most_viewed_unseen"] == 0, "everybody has seen their own"
    assert 0 < earned["random"] < earned["oracle"]
    again = play(world, USERS, at_random(PRODUCTS), seed=0)
    assert sum(played.probability for played in again.values()) == earned["random"], "seeded"


def test_the_history_is_imported_as_views_and_answered_lists(world: ForeignWorld, tmp_path: Path) -> None:
    viewed = write_history(world, tmp_path / "log", USERS, START_MS, days=2, seed=0)
    import_dataset(open_dataset(tmp_path / "log"), tmp_path / "lake")
    events = list(read_events(tmp_path / "lake"))
    of = {kind: [event for event in events if event.type is kind] for kind in EventType}
    assert len(of[EventType.VIEW]) == len(viewed) == 4 * len(USERS)
    assert len(of[EventType.IMPRESSION]) == 3 * len(USERS)
    assert all(event.request_id is None for event in of[EventType.VIEW])
    lists = {event.request_id: event.item_id for event in of[EventType.IMPRESSION]}
    own = {f"u{user}": item_id(user % PRODUCTS) for user in USERS}
    assert {e.request_id for e in of[EventType.CLICK]} == {
        e.request_id for e in of[EventType.IMPRESSION] if e.item_id == own[e.user_id]
    }
    assert all(lists[e.request_id] == e.item_id for e in of[EventType.CLICK])
    assert all(START_MS <= e.event_time_ms < START_MS + 2 * MS_PER_DAY + 8 * STEP_MS for e in events)


class FakeShop:
    """Shows half of the users their last viewed product but one, and the others product 3."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.events: list[tuple[float, Mapping[str, Any]]] = []
        self.lists: list[tuple[float, str, str]] = []
        self.down = False

    async def recommend(
        self, user_id: str, k: int | None = None, context: Mapping[str, str] = {}, exclude: Iterable[str] = ()
    ) -> Recommendations:
        if self.down and user_id == "u5":
            raise Unavailable("away")
        own = next(event["item_id"] for _, event in self.events if event["user_id"] == user_id)
        arm = ("before", "after")[int(user_id[1:]) // 4]
        self.lists.append((self.clock(), user_id, own if arm == "after" else "p3"))
        line = RecommendedItem(self.lists[-1][2], 1.0)
        return Recommendations(
            f"r{len(self.lists)}", user_id, "b", (line,), (), 1.0, arms={"second-world": arm}
        )

    async def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults:
        self.events += [(self.clock(), event) for event in events]
        return EventResults(len(events), 0, ())


def _played(world: ForeignWorld, down: bool = False) -> tuple[FakeShop, Visits]:
    clock = Clock()
    shop = FakeShop(clock)
    shop.down = down
    pace = Pace(START_MS, 10 * STEP_MS, speed=60.0)
    day = Day(shop, world, pace, "second-world", monotonic=clock, sleep=clock.sleep)
    return shop, asyncio.run(day.play(USERS, seed=0))


def test_users_do_over_the_api_what_they_do_in_the_simulator(world: ForeignWorld) -> None:
    shop, visits = _played(world)
    kinds = [event["type"] for _, event in shop.events]
    assert kinds.count("view") == 4 * len(USERS)
    clicks = [event for _, event in shop.events if event["type"] == "click"]
    assert len(clicks) == 3 * 4 + 3, "all of after, and one user of before, whose own is product 3"
    shown = {f"r{n + 1}": (user, item) for n, (_, user, item) in enumerate(shop.lists)}
    assert all(shown[click["request_id"]] == (click["user_id"], click["item_id"]) for click in clicks)
    assert visits.shown == {"before": {3}, "after": {0, 1, 2, 3}}
    assert visits.refused == visits.degraded == 0


def test_each_step_is_due_at_its_time_and_nothing_comes_from_the_future(world: ForeignWorld) -> None:
    shop, visits = _played(world)
    lists = [at for at, user, _ in shop.lists if user == "u2"]
    assert [at - lists[0] for at in lists] == pytest.approx([0, 1, 3]), "a step is a second at this speed"
    assert visits.late_s == pytest.approx(0)
    for at, event in shop.events:
        assert event["event_time_ms"] <= START_MS + at * 60_000 + 1
    views = [event["event_time_ms"] for _, event in shop.events if event["user_id"] == "u2"]
    assert {later - earlier for earlier, later in pairwise(views)} >= {STEP_MS}


def test_a_user_who_is_refused_leaves_and_is_counted(world: ForeignWorld) -> None:
    _, visits = _played(world, down=True)
    assert visits.refused == 1
    assert len(visits.played) == len(USERS) - 1


def test_the_result_compares_the_arms_with_each_other_and_with_the_best(world: ForeignWorld) -> None:
    _, visits = _played(world)
    baselines = {"oracle": play(world, USERS, oracle, 0)}
    found = result(SecondWorld(Path("python"), PRODUCTS, users=len(USERS)), visits, baselines)
    figures = found.figures
    assert figures["after_click_rate"] == figures["after_of_best"] == figures["oracle_click_rate"] == 1
    assert figures["before_click_rate"] == figures["before_clicks_per_shown"] == pytest.approx(1 / 4)
    assert figures["lift"] == pytest.approx(3)
    assert figures["before_coverage"] == pytest.approx(1 / 4)
    assert found.met
    assert any("8 users" in note for note in found.notes)


@pytest.mark.skipif(
    "RECOGYM_PYTHON" not in os.environ, reason="RECOGYM_PYTHON does not name a Python with RecoGym"
)
@pytest.mark.slow
def test_recogym_itself_is_seeded_and_knows_its_truth() -> None:
    python, users, found = Path(os.environ["RECOGYM_PYTHON"]), range(20), []
    for seed in (0, 0, 1):
        with ForeignWorld(python, 20, seed) as world:
            found.append([play(world, users, policy, 0) for policy in (at_random(20), oracle)])
    (first, best), again, other = found
    assert [first, best] == again != other
    assert all(each.probability == each.best_probability for each in best.values())
    assert all(0 <= each.probability <= each.best_probability for each in first.values())
    assert sum(each.probability for each in first.values()) < sum(each.probability for each in best.values())
