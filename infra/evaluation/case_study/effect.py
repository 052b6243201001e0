"""The rows of effect, *simulated*: CTR, CVR, dwell and diversity of *before* and *after* in one A/B test.

*Before* has an ordinary ranker. A third arm, *fair*, has the models of *after*, as of last midnight and ordered by the
predicted click: what is left between it and *after* is real time, what all heads are worth, and the whole list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.case_study.exploration import off_policy
from infra.evaluation.case_study.learn import Trained
from infra.evaluation.case_study.rows import EFFECT_METRICS, Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.world_ab import QUICK, AbSize, ArmPlan, Tested, assigner, run_test
from recsys.contracts.types import Diversity, Head
from recsys.experiments.analysis import ArmData, Lift, compare
from recsys.experiments.comparison import CatalogueLift, catalogue_lifts, lifts, split_p
from recsys.experiments.outcomes import METRICS, Outcomes
from recsys.ranking.value_model import DEFAULT_WEIGHTS
from recsys.rerank.exploration import Exploration
from recsys.rerank.reranker import RerankConfig
from serving.engine.pipeline_builder import PathConfig

BEFORE, FAIR, AFTER = "before", "fair", "after"
CANDIDATES = 200

# Before: the order of the predicted click. After: what an item is worth, by all heads, after the items above it.
BEFORE_PATH = PathConfig(CANDIDATES, RerankConfig(diversity=Diversity.NONE), ((Head.CLICK, 1.0),))
# The last place explores.
AFTER_PATH = PathConfig(
    CANDIDATES,
    RerankConfig(diversity=Diversity.FATIGUE, pool=200, exploration=Exploration(places=(9,), pool=6)),
    tuple(DEFAULT_WEIGHTS.items()),
)
ARMS = {
    BEFORE: ArmPlan(Trained(nightly=True, taste=False), BEFORE_PATH),
    FAIR: ArmPlan(Trained(nightly=True, taste=True), BEFORE_PATH),
    AFTER: ArmPlan(Trained(nightly=False, taste=True), AFTER_PATH),
}
_UNITS = {
    "ctr": "clicks per shown item",
    "cvr": "purchases per click",
    "dwell": "seconds of reading in a session",
    "diversity": "share of pairs in a list of different main category",
}


@dataclass(frozen=True)
class Effect:
    """The A/B test. `fair`: whether there is the third arm; not in a quick one, which has too few users for it."""

    name: ClassVar[str] = "effect"
    seed: int = 0
    size: AbSize = field(default_factory=AbSize)
    fair: bool = True

    @classmethod
    def quick(cls, seed: int) -> "Effect":
        return cls(seed, QUICK, fair=False)

    @property
    def arms(self) -> dict[str, ArmPlan]:
        return {arm: plan for arm, plan in ARMS.items() if self.fair or arm != FAIR}

    def measure(self) -> Found:
        return _found(self, run_test(self.size, self.seed, self.arms))


def _found(test: Effect, tested: Tested) -> Found:
    outcomes, size, arms = tested.outcomes, test.size, [*test.arms]
    found: dict[str, Lift | CatalogueLift] = {**lifts(outcomes, BEFORE, AFTER)}
    found["relevance"] = _relevance(tested.relevance, arms)
    rng = np.random.default_rng(test.seed)
    found |= catalogue_lifts(outcomes, BEFORE, AFTER, rng)
    counts = np.bincount(outcomes.arm, minlength=len(arms))
    how = (
        f"simulated A/B, {counts.sum()} users, {outcomes.sums['lists'].sum():.0f} lists of {size.k},"
        f" {size.days} days after {size.history_days} to learn from, seed {test.seed}"
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
    estimates, explored = off_policy(tested.played)
    data = {
        "off_policy": explored,
        "sample_ratio_p": split_p(outcomes),
        "metrics": _figures(found),
        "fair": _figures(fair),
        "models": {name: dict(bundle.manifest.metrics) for name, bundle in tested.bundles.items()},
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


def _relevance(of_lists: Mapping[int, Sequence[float]], names: Sequence[str]) -> Lift:
    arms: dict[str, list[Sequence[float]]] = {name: [] for name in names}
    chooser = assigner(names)
    for row, values in sorted(of_lists.items()):
        arms[chooser.assign(f"u{row}")[0].arm.name].append(values)

    def data(users: list[Sequence[float]]) -> ArmData:
        sums: NDArray[np.float64] = np.array([sum(user) for user in users])
        return ArmData(sums, np.array([len(user) for user in users], np.float64))

    return compare(data(arms[BEFORE]), data(arms[AFTER]))
