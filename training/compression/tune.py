"""`recsys tune rank`: search the student's shape and training by Optuna, within a size and a latency.

Two objectives: a high validation score (mean of click AUC and GAUC, distilled from the ladder's teacher), and few
milliseconds for 500 candidates. Size and time do not depend on the weights, so a shape is exported and timed before it
is trained; one that breaks a limit costs a second.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from pydantic import Field

from recsys.models.ranker import Ranker, RankerConfig
from recsys.ranking.scorer import RankerSession
from recsys.result import Goal, Result
from training.compression.distill import distillation
from training.compression.ladder import LadderConfig, Report, train_teacher
from training.compression.ladder_input import LadderInput
from training.compression.quantize import quantized_tables
from training.config import Config
from training.ranker.artifacts import shape_of
from training.ranker.export import call_ms, export_ranker, random_inputs
from training.ranker.loop import LoopConfig, fit, predict, predict_logits, selection_score
from training.seeding import seed_everything
from training.study import open_study

matplotlib.use("Agg")  # no display
CANDIDATES, CALLS = 500, 40
BROKEN = 0.0  # the score of a shape that breaks a limit: it is never trained


class RankTuning(Config):
    """How long to search, and within which limits."""

    out: Path = Field(
        description="The study, which an interrupted search continues; `pareto.svg`, `student.json`."
    )
    trials: int = Field(30, ge=1, description="Students to try, those of an earlier run included.")
    max_mb: float = Field(5.0, gt=0, description="Largest file, embedding rows in INT8.")
    max_ms: float = Field(1.2, gt=0, description="Longest time for 500 candidates.")
    loop: LoopConfig = Field(
        LoopConfig(epochs=3, weight_decay=1e-2, embedding_decay=0.3, patience=1),
        description="Training of each student.",
    )
    seed: int = Field(0, ge=0, description="Of the sampler and each training.")


@dataclass(frozen=True)
class Tried:
    """One student: rows in INT8, milliseconds the median of `CALLS`."""

    shape: RankerConfig
    score: float
    mb: float
    ms: float


def main(
    config: RankTuning, ladder: LadderConfig, given: LadderInput, report: Report = lambda line: None
) -> Result:
    """Run the missing trials; the first one is the ladder's own student.

    Args:
        ladder: its teacher is distilled (and trained first if missing), its student is the first trial.
    """
    answers = predict_logits(train_teacher(ladder, given), given.train, as_served=False)
    config.out.mkdir(parents=True, exist_ok=True)
    limits = (config.max_mb, config.max_ms)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        shape = propose(trial, ladder.student)
        learning_rate = trial.suggest_float("learning_rate", 5e-4, 1e-2, log=True)
        weight = trial.suggest_float("distillation", 0.5, 1.0)
        seed_everything(config.seed)
        student = Ranker(given.shape(shape), given.student_data)
        mb, ms = cost(student, given, config.out / "trial.onnx", config.seed)
        excess = {"mb": mb / config.max_mb - 1, "ms": ms / config.max_ms - 1}
        for name, by in excess.items():
            trial.set_constraint(name, by)  # at most 0
        score = BROKEN
        if max(excess.values()) <= 0:
            loop = config.loop.replace(learning_rate=learning_rate, seed=config.seed)
            fit(student, given.train, given.validation, loop, distillation(answers, loop, weight))
            score = selection_score(predict(student, given.validation), given.validation)
        trial.set_user_attr("shape", asdict(shape))
        trial.set_user_attr("mb", mb)
        report(f"trial {trial.number}: score {score:.4f}, {mb:.2f} MB, {ms:.2f} ms")
        return score, ms

    study = open_study(
        config.out / "study.log",
        f"student-seed{config.seed}-{limits}",
        config.seed,
        ("maximize", "minimize"),
        first_trial(ladder, config.loop),
    )
    done = sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(objective, n_trials=max(0, config.trials - done))
    finished = [(t.values, t.user_attrs) for t in study.trials if t.values]
    tried = [Tried(shape_of(known["shape"]), score, known["mb"], ms) for (score, ms), known in finished]
    return _result(config, tried, report)


def propose(trial: optuna.Trial, base: RankerConfig) -> RankerConfig:
    """Vary layers, widths, crosses, attention and, for hashed items, the rows; all else is as in `base`."""
    hidden = trial.suggest_categorical("hidden", [32, 48, 64, 96, 128])
    layers = trial.suggest_int("layers", 1, 2)
    buckets = 2 ** trial.suggest_int("log2_buckets", 10, 17) if base.item_buckets else 0
    return replace(
        base,
        width=trial.suggest_categorical("width", [8, 16, 24, 32]),
        item_buckets=buckets,
        attention_heads=trial.suggest_categorical("attention_heads", [1, 2]),
        curve_width=trial.suggest_int("curve_width", 0, 2),
        cross_layers=trial.suggest_int("cross_layers", 0, 3),
        cross_rank=trial.suggest_categorical("cross_rank", [8, 16, 32]),
        shared_experts=trial.suggest_int("experts", 1, 3),
        expert_layers=(hidden, hidden // 2)[:layers],
        dropout=trial.suggest_float("dropout", 0.0, 0.2),
    )


def first_trial(ladder: LadderConfig, loop: LoopConfig) -> dict[str, Any]:
    """The ladder's student as parameters of a trial, as near as the choices allow."""
    shape = ladder.student
    same = ("width", "attention_heads", "curve_width", "cross_layers", "cross_rank", "dropout")
    return {
        **{name: getattr(shape, name) for name in same},
        "hidden": shape.expert_layers[0],
        "layers": len(shape.expert_layers),
        "log2_buckets": max(shape.item_buckets, 1).bit_length() - 1,
        "experts": shape.shared_experts,
        "learning_rate": loop.learning_rate,
        "distillation": ladder.distillation,
    }


def cost(student: Ranker, given: LadderInput, path: Path, seed: int) -> tuple[float, float]:
    """(MB, milliseconds for 500 candidates on one thread) as it would be served, embedding rows in INT8."""
    data, length = student.data, given.train.history.shape[1]
    export_ranker(quantized_tables(student, 8), path, data.n_items, data.n_features, length, seed)
    session = RankerSession(path)
    rng = np.random.default_rng(seed)
    inputs = random_inputs(data.n_items, data.n_features, length, CANDIDATES, rng)
    ms, mb = float(np.median(call_ms(session, inputs, CALLS))), path.stat().st_size / 1e6
    path.unlink()
    return mb, ms


def front(tried: list[Tried]) -> list[Tried]:
    """Those that no other beats in score without being slower, fastest first."""
    found: list[Tried] = []
    for one in sorted(tried, key=lambda t: (t.ms, -t.score)):
        if not found or one.score > found[-1].score:
            found.append(one)
    return found


def _result(config: RankTuning, tried: list[Tried], report: Report) -> Result:
    """The best student within the limits goes to `student.json`, for `recsys train ladder --student`."""
    within = [t for t in tried if t.mb <= config.max_mb and t.ms <= config.max_ms]
    figures = {"trials": float(len(tried)), "within_limits": float(len(within))}
    nan = float("nan")
    best = max(within, key=lambda t: t.score, default=Tried(RankerConfig(), nan, nan, nan))
    for name, one in (("start", tried[0]), ("best", best)):
        figures |= {f"{name}_score": one.score, f"{name}_mb": one.mb, f"{name}_ms": one.ms}
    figures["front"] = float(len(front(within)))
    _plot(tried, front(within), config)
    if within:
        (config.out / "student.json").write_text(json.dumps(asdict(best.shape), indent=2), encoding="utf-8")
        report(f"next: recsys train ladder --student {config.out / 'student.json'}")
    goals = {"best_mb": Goal("<=", config.max_mb), "best_ms": Goal("<=", config.max_ms)}
    return Result("tune rank", config.seed, figures, goals)


def _plot(tried: list[Tried], best: list[Tried], config: RankTuning) -> None:
    trained = [t for t in tried if t.score > BROKEN]
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.scatter(
        [t.ms for t in trained], [t.score for t in trained], s=[8 * t.mb + 8 for t in trained], alpha=0.5
    )
    axes.step([t.ms for t in best], [t.score for t in best], where="post", label="Pareto front")
    axes.axvline(config.max_ms, linestyle=":", color="grey", label="limit")
    axes.set_xlabel("ms, 500 candidates (area: MB)")
    axes.set_ylabel("validation: mean of click AUC and GAUC")
    axes.legend()
    figure.tight_layout()
    figure.savefig(config.out / "pareto.svg")
    pyplot.close(figure)
