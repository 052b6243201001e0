"""`recsys simulate second-world`: the loop in a world that nobody of this project wrote, RecoGym, played over HTTP.

history of products shown at random → import → examples with Spark, while the log goes through Kafka into Redis → both
models with the default settings → `recsys serve` with two arms → new users come: they view products, are shown one
product at a time, and click it or not. Everything is *simulated*.

The arms are those of the case study's effect as far as an experiment can set them: one bundle and features of the
instant in both, where *before* of the case study has an ordinary ranker and features of last midnight; and no place
that explores, in lists of one.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.evaluation.load.second_world.history import write_history
from infra.evaluation.load.second_world.policies import Played, play, policies
from infra.evaluation.load.second_world.visitors import Pace, Visits, play_over_http
from infra.evaluation.load.second_world.world import ForeignWorld
from infra.loop import EXTRAS, Loop, started
from recsys.contracts.types import MS_PER_DAY
from recsys.experiments.analysis import ArmData, compare, estimate, sample_ratio_p
from recsys.extras import require
from recsys.result import Goal, Result
from recsys.simulation.clock import CLOCK_FILE, WorldClock, wall_ms, write_clock

HOME = "second-world"
EXPERIMENT = "second-world"
BEFORE, AFTER = "before", "after"
ARMS: Mapping[str, Mapping[str, object]] = {
    BEFORE: {"rerank": {"diversity": "none"}, "weights": {"click": 1.0}},
    AFTER: {"rerank": {"diversity": "fatigue", "pool": 200}},
}
GOAL_OF_BEST = 0.0225 / 0.0234  # of the best possible click rate, with a repeat policy learnt from the log
_SHOWN = 75  # products that a user is shown, on average
_FEWEST = 400  # users; with fewer a note warns


@dataclass(frozen=True)
class SecondWorld:
    """`python`: of RecoGym's environment; `users`: of the test; `rate`: lists per second."""

    python: Path
    products: int = 100
    history_users: int = 1_000
    history_days: int = 7
    users: int = 480
    rate: float = 40.0
    speed: float = 120.0
    seed: int = 0

    @classmethod
    def quick(cls, python: Path, seed: int = 0) -> "SecondWorld":
        return cls(python, history_users=300, users=60, seed=seed)

    @property
    def span_ms(self) -> int:
        """Within which the users of the test begin."""
        return round(self.users * _SHOWN / self.rate * self.speed * 1e3)

    @property
    def test_days(self) -> int:
        """All of the test is in the past, since workers take no future times. A day for the last ones to leave: of the
        history, before the test, and of the test."""
        return self.span_ms // MS_PER_DAY + 2


def run(config: SecondWorld) -> Result:
    """Play the test in `<home>/second-world`, which is created again.

    Raises:
        InvalidConfig: there is no such Python.
        Unavailable: it has no RecoGym, or a process of the loop ended.
    """
    require(*EXTRAS)
    with ForeignWorld(config.python, config.products, config.seed) as world, started(HOME) as loop:
        today_ms = wall_ms() // MS_PER_DAY * MS_PER_DAY
        start_ms = today_ms - config.test_days * MS_PER_DAY
        users = range(config.history_users, config.history_users + config.users)
        viewed = _learn(config, loop, world, start_ms)
        with loop.outcome.step("play the baselines"):
            baselines = {
                name: play(world, users, policy, config.seed)
                for name, policy in policies(viewed, config.products).items()
            }
        visits = _play(config, loop, world, users, start_ms)
    return result(config, visits, baselines)


def _learn(config: SecondWorld, loop: Loop, world: ForeignWorld, end_ms: int) -> list[int]:
    """From the history to a published bundle and a full store; returns what was viewed."""
    folder, begin_ms = loop.settings.home / "history", end_ms - config.history_days * MS_PER_DAY
    with loop.outcome.step("write the history"):
        viewed = write_history(
            world, folder, range(config.history_users), begin_ms, config.history_days, config.seed
        )
    loop.import_data(folder, None, shift=False)
    with loop.replaying():
        with loop.outcome.step("build examples with Spark"):
            loop.children.run("features", "build")
        with loop.outcome.step("train both models and publish them"):
            loop.children.run("train", "all", "--seed", str(config.seed))
    return viewed


def _play(
    config: SecondWorld, loop: Loop, world: ForeignWorld, users: Sequence[int], start_ms: int
) -> Visits:
    home = loop.settings.home
    experiments, clock = home / "experiments.yaml", home / CLOCK_FILE
    arms = [{"name": name, "settings": settings} for name, settings in ARMS.items()]
    experiments.write_text(json.dumps({"experiments": [{"name": EXPERIMENT, "arms": arms}]}))  # JSON is YAML
    write_clock(clock, WorldClock(wall_ms=wall_ms(), world_ms=start_ms, speed=0, until_ms=start_ms))
    loop.children.environ |= {"RECSYS_EXPERIMENTS": str(experiments), "RECSYS_CLOCK": str(clock)}
    api = loop.serve(0)
    pace = Pace(start_ms + MS_PER_DAY // 2, config.span_ms, config.speed)
    with loop.outcome.step(f"play {len(users)} users over HTTP"):
        return asyncio.run(play_over_http(api.url, world, users, pace, clock, EXPERIMENT, config.seed))


def result(config: SecondWorld, visits: Visits, baselines: Mapping[str, Mapping[int, Played]]) -> Result:
    """True click rates: the probabilities of a click on what was shown, known to the simulator alone; their intervals
    are by user. `_of_best`: of the best product's, at the same moments."""
    by_arm = {
        arm: [played for user, played in visits.played.items() if visits.arms[user] == arm] for arm in ARMS
    }
    figures: dict[str, float] = {}
    for name, users in [*by_arm.items(), *((name, [*of.values()]) for name, of in baselines.items())]:
        figures |= _figures(name, users)
    lift = compare(_true_rate(by_arm[BEFORE]), _true_rate(by_arm[AFTER]))
    figures |= {
        "lift": lift.relative,
        "lift_low": lift.low,
        "lift_high": lift.high,
        "split_p": sample_ratio_p([len(users) for users in by_arm.values()], [1.0] * len(by_arm)),
        "lists": len(visits.seconds),
        "refused": visits.refused,
        "degraded": visits.degraded,
        "late_s": visits.late_s,
        "p50_ms": float(np.median(visits.seconds)) * 1e3,
    }
    for arm, products in visits.shown.items():
        figures[f"{arm}_coverage"] = len(products) / config.products
    notes = [
        "simulated: RecoGym 0.1.3 (reco-gym-v1, its default arguments), one product per list",
        "both arms have one bundle and features of the instant; lift: after against before, true click rates",
    ]
    if config.users < _FEWEST:
        notes.append(f"{config.users} users: the intervals are wide")
    goals = {f"{AFTER}_of_best": Goal(">=", GOAL_OF_BEST), "refused": Goal("==", 0)}
    return Result("simulate second-world", config.seed, figures, goals, notes)


def _figures(name: str, users: Sequence[Played]) -> dict[str, float]:
    rate, of_best = estimate(_true_rate(users)), estimate(_of_best(users))
    shown = sum(user.shown for user in users)
    return {
        f"{name}_users": len(users),
        f"{name}_clicks_per_shown": sum(user.clicks for user in users) / shown,
        f"{name}_click_rate": rate.value,
        f"{name}_click_rate_low": rate.low,
        f"{name}_click_rate_high": rate.high,
        f"{name}_of_best": of_best.value,
        f"{name}_of_best_low": of_best.low,
        f"{name}_of_best_high": of_best.high,
    }


def _true_rate(users: Sequence[Played]) -> ArmData:
    """What the best product was worth before anything was shown says most of how users differ (CUPED)."""
    return ArmData(
        np.array([user.probability for user in users]),
        np.array([float(user.shown) for user in users]),
        np.array([user.first_best for user in users]),
    )


def _of_best(users: Sequence[Played]) -> ArmData:
    return ArmData(
        np.array([user.probability for user in users]), np.array([user.best_probability for user in users])
    )
