"""What each means brings, *simulated*: *after* against itself with one of them left out, in one A/B test."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from infra.evaluation.case_study.effect import AFTER, AFTER_PATH, ARMS
from infra.evaluation.case_study.learn import Trained
from infra.evaluation.case_study.rows import EFFECT_METRICS
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.world_ab import QUICK, AbSize, ArmPlan, Tested, run_test
from recsys.contracts.types import Diversity, Head
from recsys.experiments.analysis import Lift
from recsys.experiments.comparison import lifts

NOW = ARMS[AFTER].trained
ABLATED: Mapping[str, ArmPlan] = {
    AFTER: ARMS[AFTER],
    "without-real-time": ArmPlan(NOW._replace(nightly=True), AFTER_PATH),
    # its lists have three of a category at most, as those of a ranker that has not learnt what sameness costs
    "without-tastes": ArmPlan(
        Trained(nightly=False, taste=False),
        replace(
            AFTER_PATH,
            rerank=AFTER_PATH.rerank.model_copy(update={"diversity": Diversity.NONE, "per_category": 3}),
        ),
    ),
    "without-fatigue-of-the-list": ArmPlan(
        NOW,
        replace(AFTER_PATH, rerank=AFTER_PATH.rerank.model_copy(update={"diversity": Diversity.NONE})),
    ),
    "by-clicks-alone": ArmPlan(NOW, replace(AFTER_PATH, weights=((Head.CLICK, 1.0),))),
}


@dataclass(frozen=True)
class Ablation:
    """Five arms of equal size, so it needs more users than `effect` for the same intervals."""

    name: ClassVar[str] = "ablation"
    seed: int = 0
    size: AbSize = field(default_factory=AbSize)

    @classmethod
    def quick(cls, seed: int) -> "Ablation":
        return cls(seed, QUICK)

    def measure(self) -> Found:
        return _found(self, run_test(self.size, self.seed, ABLATED))


def _found(test: Ablation, tested: Tested) -> Found:
    found = {arm: lifts(tested.outcomes, AFTER, arm) for arm in ABLATED if arm != AFTER}
    lines: list[list[str | float]] = [
        [arm, *(_change(of.get(metric)) for metric in EFFECT_METRICS.values())] for arm, of in found.items()
    ]
    sheet = Sheet(
        "What each means brings (simulated)",
        ["after, but", *EFFECT_METRICS],
        lines,
        f"Change against after with its 95 % interval by user: {len(tested.outcomes.arm)} users in {len(ABLATED)} arms,"
        f" {test.size.days} days after {test.size.history_days} to learn from, seed {test.seed}.",
    )
    data = {
        arm: {
            row: {"change": of[metric].relative, "low": of[metric].low, "high": of[metric].high}
            for row, metric in EFFECT_METRICS.items()
            if metric in of
        }
        for arm, of in found.items()
    }
    return Found([], [sheet], {"ablation": data})


def _change(lift: Lift | None) -> str:
    return f"{lift.relative:+.1%} [{lift.low:+.1%}, {lift.high:+.1%}]" if lift else "not measured"
