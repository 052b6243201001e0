"""The rows of effect, *simulated*: CTR, CVR, dwell and diversity of *before* and *after* in one A/B test.

All arms are trained on the same log. Each user of the world visits one of them, by a sticky hash. Nothing is planted:
the world does not know which arm answered. Every figure follows from the seed.

*Before* has an ordinary ranker. A third arm, *fair*, has the models of *after*, as of last midnight and ordered by the
predicted click: what is left between it and *after* is real time, what all heads are worth, and the whole list.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.case_study.exploration import Played, off_policy
from infra.evaluation.case_study.learn import Learning, learn
from infra.evaluation.case_study.rows import EFFECT_METRICS, Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.simulated_ab import Deployment, SimulatedShop
from infra.evaluation.case_study.virtual_time import run_virtually
from infra.evaluation.load.visitors import Population, VisitConfig, play_day
from recsys.bundle import Bundle
from recsys.contracts.types import MS_PER_DAY, Diversity, Head
from recsys.experiments.analysis import ArmData, Lift, compare
from recsys.experiments.assignment import Arm, Assigner, Experiment
from recsys.experiments.comparison import CatalogueLift, catalogue_lifts, lifts, split_p
from recsys.experiments.outcomes import METRICS, Outcomes, outcomes_by_day
from recsys.lake.lake import read_events
from recsys.ranking.value_model import DEFAULT_WEIGHTS
from recsys.rerank.reranker import Exploration, RerankConfig
from recsys.simulation.actions import row_of
from recsys.simulation.behavior import Behavior, Response, Visitor
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import Ints, World, WorldConfig, create_world
from serving.engine.pipeline_builder import PathConfig

EXPERIMENT = "case-study"
BEFORE, FAIR, AFTER = "before", "fair", "after"
CANDIDATES = 200
WEIGHTS = tuple(DEFAULT_WEIGHTS.items())

# Before: the order of the predicted click. After: what an item is worth, by all heads, after the items above it.
BEFORE_PATH = PathConfig(CANDIDATES, RerankConfig(diversity=Diversity.NONE), ((Head.CLICK, 1.0),))
# The last place explores.
AFTER_PATH = PathConfig(
    CANDIDATES,
    RerankConfig(diversity=Diversity.FATIGUE, pool=200, exploration=Exploration(places=(9,), pool=6)),
    WEIGHTS,
)
_UNITS = {
    "ctr": "clicks per shown item",
    "cvr": "purchases per click",
    "dwell": "seconds of reading in a session",
    "diversity": "share of pairs in a list of different main category",
}


@dataclass(frozen=True)
class Effect:
    """The A/B test. `history_days`: of the training log; `days`: of the test; `k`: items in a list; `fair`: whether
    there is the third arm."""

    name: ClassVar[str] = "effect"
    seed: int = 0
    users: int = 4_000
    items: int = 3_000
    history_days: int = 14
    days: int = 7
    k: int = 10
    fair: bool = True
    learning: Learning = field(default_factory=Learning)

    @classmethod
    def quick(cls, seed: int) -> "Effect":
        return cls(
            seed,
            users=1_500,
            items=1_500,
            days=3,
            fair=False,
            learning=Learning(recall_epochs=4, rank_epochs=2),
        )

    @property
    def arms(self) -> tuple[str, ...]:
        return (BEFORE, FAIR, AFTER) if self.fair else (BEFORE, AFTER)

    def measure(self) -> Found:
        world = create_world(
            WorldConfig(
                seed=self.seed, users=self.users, items=self.items, days=self.history_days + self.days
            )
        )
        with tempfile.TemporaryDirectory(prefix="recsys-effect-") as folder:
            home = Path(folder)
            lake = home / "lake"
            write_history(world, lake, HistoryConfig(days=self.history_days))
            bundles = learn(
                lake, home / "work", home / "bundles", replace(self.learning, seed=self.seed), self.arms
            )
            behavior = Watched(world)
            play(Population(world, behavior), behavior, bundles, lake, self)
            *_, outcomes = outcomes_by_day(lake, EXPERIMENT)
        return _found(self, outcomes, behavior, bundles)


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
        self.played.append(Played(draw, bool(response.clicked[draw.place]), truth))
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
    population: Population, behavior: Watched, bundles: Mapping[str, Bundle], lake: Path, test: Effect
) -> None:
    """Play the days of the test into the lake that has the history."""
    shop = SimulatedShop(
        {
            arm: Deployment(bundles[arm], AFTER_PATH)
            if arm == AFTER
            else Deployment(bundles[arm], BEFORE_PATH, nightly=True)
            for arm in test.arms
        },
        assigner(test.arms),
        EXPERIMENT,
    )
    behavior.shop = shop
    start_ms = population.world.config.start_ms + test.history_days * MS_PER_DAY
    shop.learn_history(read_events(lake), start_ms)
    run_virtually(_days(shop, population, lake, test))


async def _days(shop: SimulatedShop, population: Population, lake: Path, test: Effect) -> None:
    loop, world = asyncio.get_running_loop(), population.world
    for day in range(test.history_days, test.history_days + test.days):
        start_ms = world.config.start_ms + day * MS_PER_DAY
        shop.clock = partial(_now_ms, start_ms, loop.time())
        everybody = len(world.visits(day)[0]) / 86_400
        visit = VisitConfig(rate=everybody, day_s=86_400, k=test.k, day=day, announce_s=60.0)
        await play_day(shop, population, visit, monotonic=loop.time)
        shop.midnight(lake, day, start_ms + MS_PER_DAY)


def _now_ms(start_ms: int, began_s: float) -> int:
    return start_ms + int((asyncio.get_running_loop().time() - began_s) * 1e3)


def _found(test: Effect, outcomes: Outcomes, behavior: Watched, bundles: Mapping[str, Bundle]) -> Found:
    found: dict[str, Lift | CatalogueLift] = {**lifts(outcomes, BEFORE, AFTER)}
    found["relevance"] = _relevance(behavior.relevance, test.arms)
    rng = np.random.default_rng(test.seed)
    found |= catalogue_lifts(outcomes, BEFORE, AFTER, rng)
    counts = np.bincount(outcomes.arm, minlength=len(test.arms))
    how = (
        f"simulated A/B, {counts.sum()} users, {outcomes.sums['lists'].sum():.0f} lists of {test.k},"
        f" {test.days} days after {test.history_days} to learn from, seed {test.seed}"
    )
    rows = _rows(found, how)
    fair = lifts(outcomes, FAIR, AFTER) if test.fair else {}
    rows += _rows(fair, how, "against a fair before")
    meanings = {name: metric.meaning for name, metric in METRICS.items()} | {
        "relevance": "true probability of a click on a shown item, alone",
        "coverage": "share of all shown items that the arm has shown",
        "evenness": "1 - Gini of the items' impressions",
    }
    users = ", ".join(f"{arm} {n}" for arm, n in zip(outcomes.arms, counts.tolist(), strict=True))
    sheet = Sheet(
        "The A/B test (simulated)",
        ["metric", BEFORE, AFTER, "change", "95 % interval", "variance left by CUPED", "meaning"],
        _lines(found, meanings),
        f"{how}. Users: {users};"
        f" sample ratio p = {split_p(outcomes):.3g}. Intervals by user: delta method, CUPED from the days before;"
        " coverage and evenness by bootstrap.",
    )
    sheets = [sheet, *_fair_sheets(outcomes, meanings)] if test.fair else [sheet]
    estimates, explored = off_policy(behavior.played)
    data = {
        "off_policy": explored,
        "sample_ratio_p": split_p(outcomes),
        "metrics": _figures(found),
        "fair": _figures(fair),
        "models": {name: dict(bundle.manifest.metrics) for name, bundle in bundles.items()},
    }  # fmt: skip
    return Found(rows, [*sheets, estimates], data)


def _lines(found: Mapping[str, Lift | CatalogueLift], meanings: Mapping[str, str]) -> list[list[str | float]]:
    return [
        [name, x.control, x.treatment, f"{x.relative:+.1%}", f"{x.low:+.1%} to {x.high:+.1%}",
         f"{x.variance_kept:.2f}" if isinstance(x, Lift) else "", meanings[name]]
        for name, x in found.items()
    ]  # fmt: skip


def _fair_sheets(outcomes: Outcomes, meanings: Mapping[str, str]) -> list[Sheet]:
    """What the models alone bring, and what the rest brings on top of them."""
    return [
        Sheet(
            f"{title} (simulated)",
            ["metric", control, treatment, "change", "95 % interval", "variance left by CUPED", "meaning"],
            _lines(lifts(outcomes, control, treatment), meanings),
        )
        for title, control, treatment in (
            ("The models of after, as of last midnight, against before", BEFORE, FAIR),
            ("After against a fair before", FAIR, AFTER),
        )
    ]


def _figures(found: Mapping[str, Lift | CatalogueLift]) -> dict[str, dict[str, float]]:
    return {
        name: {"before": x.control, "after": x.treatment, "change": x.relative, "low": x.low, "high": x.high}
        for name, x in found.items()
    }


def _rows(found: Mapping[str, Lift | CatalogueLift], how: str, part: str = "") -> list[Measured]:
    return [
        _row(row, found[metric], _UNITS[row], how, part)
        for row, metric in EFFECT_METRICS.items()
        if metric in found
    ]


def _row(row: str, x: Lift | CatalogueLift, unit: str, how: str, part: str) -> Measured:
    """`after` is `before` times one plus the lift: CUPED removes what the arms' users differed in beforehand."""
    after = x.control * (1 + x.relative)
    return Measured(
        row, x.control, after, unit, how, part, interval=(x.low, x.high), simulated=True, exact=True
    )


def _relevance(of_lists: Mapping[int, list[float]], names: Sequence[str]) -> Lift:
    arms: dict[str, list[list[float]]] = {name: [] for name in names}
    chooser = assigner(names)
    for row, values in sorted(of_lists.items()):
        arms[chooser.assign(f"u{row}")[0].arm.name].append(values)

    def data(users: list[list[float]]) -> ArmData:
        sums: NDArray[np.float64] = np.array([sum(user) for user in users])
        return ArmData(sums, np.array([len(user) for user in users], np.float64))

    return compare(data(arms[BEFORE]), data(arms[AFTER]))
