"""One A/B test in a simulated world: write its history, train what the arms serve, play the days after it.

All arms are trained on the same log. Each user of the world visits one of them, by a sticky hash. Nothing is planted:
the world does not know which arm answered. Every figure follows from the seed.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.case_study.exploration import Played
from infra.evaluation.case_study.learn import Learning, Trained, learn
from infra.evaluation.case_study.simulated_ab import Deployment, SimulatedShop
from infra.evaluation.case_study.virtual_time import run_virtually
from infra.evaluation.load.visitors import Population, VisitConfig, play_day
from infra.terminal import console
from recsys.bundle import Bundle
from recsys.contracts.types import MS_PER_DAY
from recsys.experiments.assignment import Arm, Assigner, Experiment
from recsys.experiments.outcomes import Outcomes, outcomes_by_day
from recsys.lake.lake import read_events
from recsys.simulation.actions import row_of
from recsys.simulation.behavior import Behavior, Response, Visitor
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import Ints, World, WorldConfig, create_world
from serving.engine.pipeline_builder import PathConfig

EXPERIMENT = "case-study"


@dataclass(frozen=True)
class AbSize:
    """`history_days`: of the training log; `days`: of the test; `k`: items in a list."""

    users: int = 4_000
    items: int = 3_000
    history_days: int = 14
    days: int = 7
    k: int = 10
    learning: Learning = field(default_factory=Learning)


QUICK = AbSize(users=1_500, items=1_500, days=3, learning=Learning(recall_epochs=4, rank_epochs=2))


@dataclass(frozen=True)
class ArmPlan:
    """What an arm serves."""

    trained: Trained
    path: PathConfig


@dataclass(frozen=True)
class Tested:
    """What came out: `relevance` by user, of each list; `bundles` by arm."""

    outcomes: Outcomes
    relevance: Mapping[int, Sequence[float]]
    played: Sequence[Played]
    bundles: Mapping[str, Bundle]


def run_test(size: AbSize, seed: int, arms: Mapping[str, ArmPlan]) -> Tested:
    """Play the test; it takes minutes to an hour."""
    days = size.history_days + size.days
    world = create_world(WorldConfig(seed=seed, users=size.users, items=size.items, days=days))
    with tempfile.TemporaryDirectory(prefix="recsys-effect-") as folder:
        home = Path(folder)
        lake = home / "lake"
        write_history(world, lake, HistoryConfig(days=size.history_days))
        console.print(f"{size.history_days} days of history written; training {len(arms)} arms …")
        learning, kinds = replace(size.learning, seed=seed), {plan.trained for plan in arms.values()}
        trained = learn(lake, home / "work", home / "bundles", learning, sorted(kinds))
        bundles = {arm: trained[plan.trained] for arm, plan in arms.items()}
        behavior = Watched(world)
        play(Population(world, behavior), behavior, bundles, lake, size, arms)
        *_, outcomes = outcomes_by_day(lake, EXPERIMENT)
    return Tested(outcomes, behavior.relevance, behavior.played, bundles)


class Watched(Behavior):
    """The world's responses, and what only a simulation knows: how attractive the shown items truly were, and what else
    an explored position would have earned. `shop` makes the lists."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.relevance: defaultdict[int, list[float]] = defaultdict(list)  # by user, of each list
        self.played: list[Played] = []
        self.shop: SimulatedShop | None = None

    def respond(self, visitor: Visitor, rows: Ints, now_ms: int) -> Response:
        self.relevance[visitor.row].append(float(self.attraction(visitor, rows, now_ms).mean()))
        if self.shop is None or (draw := self.shop.draw) is None:
            return super().respond(visitor, rows, now_ms)
        pool = np.array([row_of(item_id) for item_id in self.shop.ids(draw.pool)], np.int64)
        truth = self.expected(visitor, rows, draw.place, pool, now_ms)
        response = super().respond(visitor, rows, now_ms)
        self.played.append(Played(visitor.row, draw, bool(response.clicked[draw.place]), truth))
        return response

    def expected(
        self, visitor: Visitor, rows: Ints, place: int, pool: Ints, now_ms: int
    ) -> NDArray[np.float64]:
        """(n,) probability of a click on each of `pool` at that position, given what is examined before it."""
        categories = self._world.item_category
        examined = (1.0 + np.arange(place + 1)) ** -self._config.examination
        alike = categories[rows[:place]][None, :] == categories[pool][:, None]
        tired = self._config.sameness_fatigue * (alike * examined[:place]).sum(axis=1)
        odds = self._logits(visitor, pool, now_ms) - tired
        return np.asarray(examined[place] / (1 + np.exp(-odds)), np.float64)


def assigner(arms: Sequence[str]) -> Assigner:
    """Equally many users each, as long as the experiment has this name."""
    return Assigner([Experiment(name=EXPERIMENT, arms=tuple(Arm(name=arm) for arm in arms))])


def play(
    population: Population,
    behavior: Watched,
    bundles: Mapping[str, Bundle],
    lake: Path,
    size: AbSize,
    arms: Mapping[str, ArmPlan],
) -> None:
    """Play the days of the test into the lake that has the history."""
    deployments = {
        arm: Deployment(bundles[arm], plan.path, plan.trained.nightly) for arm, plan in arms.items()
    }
    shop = SimulatedShop(deployments, assigner([*arms]), EXPERIMENT)
    behavior.shop = shop
    start_ms = population.world.config.start_ms + size.history_days * MS_PER_DAY
    shop.learn_history(read_events(lake), start_ms)
    run_virtually(_days(shop, population, lake, size))


async def _days(shop: SimulatedShop, population: Population, lake: Path, size: AbSize) -> None:
    loop, world = asyncio.get_running_loop(), population.world
    for day in range(size.history_days, size.history_days + size.days):
        start_ms = world.config.start_ms + day * MS_PER_DAY
        shop.clock = partial(_now_ms, start_ms, loop.time())
        everybody = len(world.visits(day)[0]) / 86_400
        visit = VisitConfig(rate=everybody, day_s=86_400, k=size.k, day=day, announce_s=60.0)
        await play_day(shop, population, visit, monotonic=loop.time)
        shop.midnight(lake, day, start_ms + MS_PER_DAY)
        console.print(f"day {day - size.history_days + 1} of {size.days} played")


def _now_ms(start_ms: int, began_s: float) -> int:
    return start_ms + int((asyncio.get_running_loop().time() - began_s) * 1e3)
