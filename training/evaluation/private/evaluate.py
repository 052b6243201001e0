"""`recsys evaluate private`: what user-level differential privacy costs on KuaiRand, and what it keeps from attackers.

Plain and private models have one shape and the same inputs (`rows`). Nothing here is released, so draws are seeded and
no ledger is written.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.types import Head
from recsys.metrics import auc
from recsys.models.ranker import Ranker, RankerConfig
from recsys.result import Goal, Result
from training.config import Config
from training.evaluation.private import rows as data
from training.evaluation.private.attack import attack_aucs, halves, user_losses
from training.evaluation.private.audit import (
    CONFIDENCE,
    audited_epsilon,
    click_scores,
    mechanism_scores,
    planted,
)
from training.evaluation.private.rows import Rows
from training.evaluation.ranking.baselines import smoothed_rates
from training.privacy.randomness import SecureRandomness, SeededRandomness
from training.private.gradients import Sums
from training.private.loop import Plan, noisy, plan
from training.private.ranker import RankerLearner, RankerLoop
from training.private.train import SMALL
from training.ranker.dataset import RankExamples
from training.ranker.loop import LoopConfig, inputs_of, predict_logits, ranking_loss

PLAIN_LOOP = LoopConfig(
    epochs=4, batch_size=512, learning_rate=1e-3, weight_decay=1e-3, embedding_decay=1e-2, patience=1
)
PLAIN_SHAPE = replace(SMALL, dropout=0.2, item_dropout=0.03)
JUDGED = {8.0: 0.010, 3.0: 0.020}  # epsilon → click AUC that it may cost
ATTACK, STEP = 0.52, 4.0  # goals
_CANARIES_OF_MECHANISM = 2_000


class PrivateEvaluation(Config):
    """What to run."""

    data: Path = Field(description="Folder of the KuaiRand-Pure slice.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures, but for times.")
    curve: tuple[float, ...] = Field((1.0, 16.0), description="More epsilons, for AUC alone.")
    attacked: int = Field(3, ge=2, description="Models on random halves of the users, of each kind.")
    repeats: int = Field(5, ge=1, description="Of each step that is timed.")
    canaries: int = Field(500, ge=20, description="Invented users, half of them in the training.")
    loop: RankerLoop = Field(RankerLoop(delta=1e-5), description="Of the private models; epsilon is varied.")
    plain_loop: LoopConfig = Field(PLAIN_LOOP, description="Of the plain models.")
    model: RankerConfig = Field(PLAIN_SHAPE, description="Of all; dropout of the plain ones alone.")

    def quick(self) -> "PrivateEvaluation":
        """One epoch, few models."""
        return self.replace(
            curve=(),
            attacked=2,
            canaries=100,
            repeats=1,
            loop=self.loop.replace(epochs=1),
            plain_loop=self.plain_loop.replace(epochs=1),
        )


def main(config: PrivateEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train, judge, attack, audit.

    Args:
        report: receives one line per finished step.

    Raises:
        InvalidData: a file of the slice is missing.
    """
    torch.set_num_threads(1)
    own, everything = data.read(config.data)
    evaluation = _Evaluation(config, own, report)
    figures: dict[str, float] = {"users": evaluation.users, "rows": float(len(own.parts["train"]))}
    figures |= baselines(own)
    figures["plain_click_auc"] = click_auc(evaluation.plain(own), own)
    figures["plain_with_counts_click_auc"] = click_auc(evaluation.plain(everything), everything)
    figures |= evaluation.costs(figures["plain_click_auc"])
    figures |= evaluation.attacks()
    figures["step_ratio"] = step_ratio(own, evaluation.planned(8.0), config)
    goals = {f"cost_{name(e)}_click_auc": Goal("<=", most) for e, most in JUDGED.items()}
    for epsilon in JUDGED:
        goals |= {f"attack_{name(epsilon)}_{kind}_auc": Goal("<=", ATTACK) for kind in ("loss", "references")}
        goals |= {f"{audit}_{name(epsilon)}_epsilon": Goal("<=", epsilon) for audit in ("audit", "mechanism")}
    goals |= {"audit_plain_epsilon": Goal(">=", 1.0), "step_ratio": Goal("<=", STEP)}
    return Result("evaluate private", config.seed, figures, goals, notes(config, evaluation))


class _Evaluation:
    """One way to train each kind of model, on all users or some."""

    def __init__(self, config: PrivateEvaluation, rows: Rows, report: Callable[[str], None]) -> None:
        self.config, self.rows, self.report = config, rows, report
        self.ids = np.unique(rows.parts["train"].users)
        self.users = len(self.ids)
        self._plans: dict[tuple[float, int], Plan] = {}
        report(f"{self.users:,} users, {len(rows.parts['train']):,} rows, {len(rows.numeric)} numeric inputs")

    def planned(self, epsilon: float, users: int | None = None) -> Plan:
        """`math.inf`: clipped, without noise on gradients."""
        count = self.users if users is None else users
        if (epsilon, count) not in self._plans:
            loop = self.config.loop
            self._plans[epsilon, count] = (
                Plan(loop, count, 0.0) if math.isinf(epsilon) else plan(loop.replace(epsilon=epsilon), count)
            )
        return self._plans[epsilon, count]

    def plain(self, rows: Rows, users: NDArray[np.int64] | None = None, seed: int = 0) -> Ranker:
        loop = self.config.plain_loop.replace(seed=self.config.seed + seed)
        return data.plain(rows, self.config.model, loop, users)

    def private(
        self, rows: Rows, epsilon: float, users: NDArray[np.int64] | None = None, seed: int = 0
    ) -> Ranker:
        train = rows.parts["train"]
        count = len(np.unique(train.users) if users is None else np.intersect1d(users, train.users))
        seed += self.config.seed
        return data.private(
            rows,
            self.config.model,
            self.config.loop,
            self.planned(epsilon, count),
            seed,
            SeededRandomness(seed),
            users,
        )

    def costs(self, plain: float) -> dict[str, float]:
        """Click AUC at each epsilon, what it costs, and the noise that it takes."""
        found: dict[str, float] = {}
        for epsilon in sorted({*JUDGED, *self.config.curve, math.inf}, reverse=True):
            started, planned = time.perf_counter(), self.planned(epsilon)
            reached = click_auc(self.private(self.rows, epsilon), self.rows)
            found |= {
                f"private_{name(epsilon)}_click_auc": reached,
                f"cost_{name(epsilon)}_click_auc": plain - reached,
                f"noise_multiplier_{name(epsilon)}": planned.noise_multiplier,
            }
            self.report(
                f"epsilon {epsilon:g}: click AUC {reached:.4f}, plain {plain:.4f}; noise multiplier"
                f" {planned.noise_multiplier:.2f}, {planned.steps} steps, {time.perf_counter() - started:.0f} s"
            )
        return found

    def attacks(self) -> dict[str, float]:
        """Membership attacks and audits of the plain model, of one that is clipped without noise, of private ones."""
        found: dict[str, float] = {}
        for epsilon in (None, *JUDGED):
            kind = "plain" if epsilon is None else name(epsilon)
            rng = np.random.default_rng((self.config.seed, 1))
            members = halves(self.config.attacked, self.users, rng)
            losses, audit = [], 0.0
            for target, theirs in enumerate(members):
                rows, canaries = planted(self.rows, self.config.canaries, rng)
                trained = np.concatenate((self.ids[theirs], canaries.users))
                model = (
                    self.plain(rows, trained, target)
                    if epsilon is None
                    else self.private(rows, epsilon, trained, target)
                )
                like = self.rows.parts["train"]
                losses.append(user_losses(model, like, self.config.loop.loss_weights))
                if target == 0:
                    scores = click_scores(model, canaries, like)
                    audit = audited_epsilon(scores, canaries.included, self.config.loop.delta)
            found[f"audit_{kind}_epsilon"] = audit
            by = attack_aucs(losses, members)
            found |= {f"attack_{kind}_{attack}_auc": value for attack, value in by.items()}
            if epsilon is not None:
                included = rng.random(_CANARIES_OF_MECHANISM) < 0.5
                seen = mechanism_scores(self.planned(epsilon), included, SeededRandomness(self.config.seed))
                found[f"mechanism_{kind}_epsilon"] = audited_epsilon(seen, included, self.config.loop.delta)
            self.report(f"{kind}: attack {by}, audited epsilon ≥ {audit:.2f}")
        return found


def name(epsilon: float) -> str:
    """In the names of figures.

    >>> name(8.0), name(0.5), name(math.inf)
    ('8', '0.5', 'inf')
    """
    return f"{epsilon:g}"


def click_auc(model: Ranker, rows: Rows) -> float:
    """Of the test rows."""
    test = rows.parts["test"]
    return auc(_clicks(test), predict_logits(model, test).click.numpy())


def baselines(rows: Rows) -> dict[str, float]:
    """Click AUC without a network: each video's and each creator's rate in training, and a constant."""
    train, test = rows.parts["train"], rows.parts["test"]
    labels = {"click": train.label(Head.CLICK).astype(np.float64)}
    codes = {"video_rate": np.arange(len(rows.fields)), "creator_rate": rows.fields[:, 0]}
    codes["constant"] = np.zeros(len(rows.fields), np.int64)
    return {
        f"{who}_click_auc": auc(
            _clicks(test), smoothed_rates(code[train.items], labels, code[test.items])["click"]
        )
        for who, code in codes.items()
    }


def step_ratio(rows: Rows, planned: Plan, config: PrivateEvaluation) -> float:
    """Time of a private step over that of a plain step on the same rows; medians."""
    train = rows.parts["train"]
    statistics = tuple(torch.zeros(len(rows.numeric), *size) for size in ((), (), (config.model.bins + 1,)))
    model = rows.ranker(replace(config.model, dropout=0.0, item_dropout=0.0), statistics)  # type: ignore[arg-type]
    model.train()
    learner = RankerLearner(model, train, config.loop)
    sampled = np.flatnonzero(SeededRandomness(config.seed).uniform(len(learner)) < planned.sample_rate)
    batch = train.take(np.concatenate([learner.rows.rows_of(user) for user in sampled.tolist()]))
    optimizer = torch.optim.AdamW(model.parameters())
    secure = SecureRandomness()

    def plainly() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(*inputs_of(batch))
        ranking_loss(logits, torch.from_numpy(batch.labels), config.loop.loss_weights).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def privately() -> None:
        noisy(Sums.of(learner, sampled, planned.loop.clip), planned, secure)

    return _seconds(privately, config.repeats) / _seconds(plainly, config.repeats)


def notes(config: PrivateEvaluation, evaluation: _Evaluation) -> tuple[str, ...]:
    return (
        f"unit: user, of {evaluation.users:,}; delta {config.loop.delta:g}",
        f"inputs: {len(evaluation.rows.numeric)} numbers and {len(evaluation.rows.categorical)} codes of request, user"
        " and catalogue; `plain_with_counts` also reads counts over all users, which no private model may",
        f"private_inf: clipped like the others, without noise; attack and audit figures: {config.attacked} models on"
        f" random halves of the users, {config.canaries} canaries, confidence {CONFIDENCE:g}",
        "mechanism: the same audit with the strongest canaries there are, who see each step's noisy gradient",
    )


def _clicks(rows: RankExamples) -> NDArray[np.int64]:
    return rows.label(Head.CLICK).astype(np.int64)


def _seconds(call: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first warms up
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))
