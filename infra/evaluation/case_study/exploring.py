"""Uniform or Thompson's draws for the place that explores, *simulated*: in one A/B test, and off-policy from the log.

Both arms serve the same models; the last place draws from the best fifty that are left. The world knows what each item
of the pool would have earned there. Off-policy: what Thompson's draws would earn, from the log of the uniform ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.case_study.effect import AFTER, AFTER_PATH, ARMS
from infra.evaluation.case_study.exploration import Draw, Played
from infra.evaluation.case_study.rows import EFFECT_METRICS
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.world_ab import QUICK, AbSize, ArmPlan, Tested, assigner, run_test
from recsys.contracts.types import Exploring as Way
from recsys.experiments.analysis import ArmData, Lift, compare
from recsys.experiments.comparison import lifts
from recsys.experiments.off_policy import Log, ips, snips
from recsys.rerank.exploration import Exploration, sampled_worth, thompson_shares

UNIFORM, THOMPSON = str(Way.UNIFORM), str(Way.THOMPSON)
_PLACE = Exploration(places=(9,), pool=50)
EXPLORED = {
    str(way): ArmPlan(
        ARMS[AFTER].trained,
        replace(
            AFTER_PATH,
            rerank=AFTER_PATH.rerank.model_copy(
                update={"exploration": _PLACE.model_copy(update={"draw": way})}
            ),
        ),
    )
    for way in Way
}


@dataclass(frozen=True)
class Exploring:
    """Two arms of equal size."""

    name: ClassVar[str] = "exploration"
    seed: int = 0
    size: AbSize = field(default_factory=AbSize)

    @classmethod
    def quick(cls, seed: int) -> "Exploring":
        return cls(seed, QUICK)

    def measure(self) -> Found:
        return _found(self, run_test(self.size, self.seed, EXPLORED))


def _found(test: Exploring, tested: Tested) -> Found:
    played = _by_arm(tested.played)
    at_place = compare(_true_clicks(played[UNIFORM]), _true_clicks(played[THOMPSON]))
    whole = lifts(tested.outcomes, UNIFORM, THOMPSON)
    lines: list[list[str | float]] = [_line("true clicks at the place, per list", at_place)]
    lines += [_line(row, whole[metric]) for row, metric in EFFECT_METRICS.items() if metric in whole]
    how = (
        f"{len(tested.outcomes.arm)} users, {len(tested.played)} lists, {test.size.days} days, seed {test.seed};"
        " 95 % intervals by user."
    )
    in_test = Sheet(
        "Thompson's draws against uniform ones (simulated)",
        ["", UNIFORM, THOMPSON, "change"],
        lines,
        how,
    )
    figures, from_log = _off_policy(played[UNIFORM], test.seed)
    figures |= {"change": at_place.relative, "low": at_place.low, "high": at_place.high}
    return Found([], [in_test, from_log], {"exploration": figures})


def _by_arm(played: Sequence[Played]) -> dict[str, list[Played]]:
    arms: dict[str, list[Played]] = {arm: [] for arm in EXPLORED}
    chooser = assigner([*EXPLORED])
    for one in played:
        arms[chooser.assign(f"u{one.user}")[0].arm.name].append(one)
    return arms


def _true_clicks(played: Sequence[Played]) -> ArmData:
    """By user: the probability of a click on what was drawn, and lists."""
    _, user = np.unique([one.user for one in played], return_inverse=True)
    truth = np.array([one.truth[one.draw.drawn] for one in played])
    return ArmData(np.bincount(user, truth).astype(np.float64), np.bincount(user).astype(np.float64))


def _off_policy(played: Sequence[Played], seed: int) -> tuple[dict[str, float], Sheet]:
    """What Thompson's draws would have earned in the uniform arm."""
    rng = np.random.default_rng(seed)
    shares = [_shares(rng, one.draw) for one in played]
    log = Log(
        np.array([one.clicked for one in played], np.float64),
        np.array([one.draw.propensity for one in played]),
        np.array([share[one.draw.drawn] for share, one in zip(shares, played, strict=True)]),
    )
    truth = float(np.mean([share @ one.truth for share, one in zip(shares, played, strict=True)]))
    uniform = float(np.mean([one.truth.mean() for one in played]))
    lines: list[list[str | float]] = [["truth", truth, ""]]
    figures = {"uniform_truth": uniform, "thompson_truth": truth}
    for name, estimated in (("IPS", ips(log)), ("SNIPS", snips(log))):
        lines.append([name, estimated.value, f"{estimated.low:.4f} to {estimated.high:.4f}"])
        figures |= {name: estimated.value, f"{name}_low": estimated.low, f"{name}_high": estimated.high}
    note = f"Clicks per list at the place, from {len(played)} lists that drew uniformly ({uniform:.4f} in truth)."
    return figures, Sheet(
        "Thompson's draws from the log of uniform ones", ["estimate", "clicks", "95 %"], lines, note
    )


def _shares(rng: np.random.Generator, draw: Draw) -> NDArray[np.float64]:
    worth = sampled_worth(rng, draw.value, draw.predicted, draw.deviation)
    return thompson_shares(worth, _PLACE.uniform)


def _line(name: str, lift: Lift) -> list[str | float]:
    change = f"{lift.relative:+.1%} [{lift.low:+.1%}, {lift.high:+.1%}]"
    return [name, lift.control, lift.treatment, change]
