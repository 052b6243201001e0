"""`recsys tune recall`: search the two-tower's shape and training by Optuna, within minutes.

The held-out events (the newest, or each user's last) are split in two. One half decides: early stopping, which trials
are pruned, which one is best. The other half judges the default and the best, so that the gain is not flattered by the
search.
"""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import atomic_write
from recsys.metrics import hit_rate, ndcg, ndcgs
from recsys.result import Goal, Result
from training.bootstrap import mean_differences
from training.choices import Augmentation
from training.config import Config
from training.study import open_study
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.data import read_training_data
from training.two_tower.result import EpochReport
from training.two_tower.retrieval import Cases, next_item_ranks
from training.two_tower.train import OnProgress

BEST = "recall.yaml"
_OF_THE_COMMAND = ("sequences", "items", "users", "work", "start", "newer_than_ms")
_SHAPE = ("dim", "heads", "hidden", "blocks", "dropout", "id_dropout")
_LOOP = ("learning_rate", "epochs", "batch_tokens", "ema", "augmentation")
_DIMS, _BATCH_TOKENS, _EMA = [32, 64, 128], [512, 1024, 2048, 4096], [0.0, 0.99, 0.999]
_BLOCKS, _DROPOUT, _ID_DROPOUT = (1, 3), (0.0, 0.5), (0.0, 0.3)
_LEARNING_RATE, _EPOCHS = (5e-4, 1e-2), (4, 40)
# substitutes need neighbours of the whole log for every trial
_AUGMENTATIONS = (Augmentation.NONE, Augmentation.CROP, Augmentation.MASK, Augmentation.REORDER)
_RANKS, _SETTINGS, _FIRST = "ranks", "settings", "first"  # user attributes of a trial
Report = Callable[[str], None]


class RecallTuning(Config):
    """How long to search."""

    out: Path = Field(description="The study, which the next search continues; `recall.yaml`.")
    minutes: float = Field(30.0, gt=0, description="Of this run; the default is trained in any case.")
    trials: int = Field(1_000, ge=1, description="Trials at most, those of earlier runs included.")
    least_cases: int = Field(500, ge=2, description="Held-out events below which nothing is searched.")
    seed: int = Field(0, ge=0, description="Of the sampler.")


class _OutOfTime(Exception):
    """The next search continues this trial from its checkpoint."""


def main(
    tuning: RecallTuning,
    base: TwoTowerConfig,
    report: Report = lambda line: None,
    progress: OnProgress = lambda phase, done, epochs: None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Train the default, then what Optuna proposes, until the minutes are over.

    Args:
        base: what `recsys train recall` would train; what is not searched stays as it is.

    Raises:
        InvalidConfig: `base` holds nothing out.
        InvalidData: too few events can be held out, or the data are unusable.
    """
    deadline, asked = clock() + 60 * tuning.minutes, base
    base, judges = halves(base, tuning.least_cases)
    name = study_name(base)
    # the linear part is fitted to whichever tower is trained; none is varied here
    base = base.replace(linear_rank=0, refit=False, work=tuning.out / f"checkpoints-{name}")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    study = open_study(tuning.out / "study.log", name, tuning.seed, ("maximize",), near(base), pruner)
    while _finished(study) < tuning.trials and (clock() < deadline or not _finished(study)):
        trial = study.ask()
        config, ends = propose(trial, base), deadline
        if _FIRST in trial.user_attrs:  # the default itself: the proposal is only near to it
            config, ends = base, math.inf
        try:
            score, state = _score(trial, config, judges, progress, clock, ends), TrialState.COMPLETE
        except optuna.TrialPruned:
            score, state = None, TrialState.PRUNED
        except _OutOfTime:
            break
        shutil.rmtree(base.work, ignore_errors=True)  # first: the next trial must not find it
        study.tell(trial, score, state)
        report(_line(study.trials[trial.number]))
    return _result(tuning, study, asked, judges, report)


def halves(base: TwoTowerConfig, least: int) -> tuple[TwoTowerConfig, Cases]:
    """The configuration that decides on one half of the held-out cases, and the other half."""
    if base.validation is Validation.NONE:
        raise InvalidConfig(
            "validation: a search needs held-out events; `--set validation=last_item`, or time"
        )
    held = read_training_data(base.replace(validation_cases=1 << 62)).held_out
    found = 0 if held is None else len(held)
    if held is None or found < least:
        raise InvalidData(
            f"{found} events can be held out; a search would fit the noise of fewer than {least}"
        )
    n = min(base.validation_cases, found // 2)  # the trainer takes the first n of the same order
    rest = slice(n, 2 * n)
    judges = Cases(held.histories[rest], held.targets[rest], held.now_ms[rest], held.repeats)
    return base.replace(validation_cases=n), judges


def study_name(base: TwoTowerConfig) -> str:
    """Another one for other data or another default, whose scores could not be compared."""
    files = sorted(base.sequences.glob("[!._]*.parquet"))
    content = base.model_dump_json(exclude={"work", "threads", "checkpoint_s"})
    content += repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def propose(trial: optuna.Trial, base: TwoTowerConfig) -> TwoTowerConfig:
    """Vary width, depth, regularisation, learning rate, epochs, batch and augmentation; all else is as in `base`."""
    dim = trial.suggest_categorical("dim", _DIMS)
    shape = {
        "dim": dim,
        "heads": dim // 32,
        "hidden": 2 * dim,
        "blocks": trial.suggest_int("blocks", *_BLOCKS),
        "dropout": trial.suggest_float("dropout", *_DROPOUT),
        "id_dropout": trial.suggest_float("id_dropout", *_ID_DROPOUT),
    }
    return base.replace(
        shape=base.shape.model_validate({**dict(base.shape), **shape}),
        learning_rate=trial.suggest_float("learning_rate", *_LEARNING_RATE, log=True),
        epochs=trial.suggest_int("epochs", *_EPOCHS, log=True),
        batch_tokens=trial.suggest_categorical("batch_tokens", _BATCH_TOKENS),
        ema=trial.suggest_categorical("ema", _EMA),
        augmentation=trial.suggest_categorical("augmentation", [str(a) for a in _AUGMENTATIONS]),
    )


def near(base: TwoTowerConfig) -> dict[str, Any]:
    """The default as parameters of a trial, as near as the choices allow, from which the sampler learns."""

    def nearest(value: float, choices: Sequence[float]) -> float:
        return min(choices, key=lambda choice: abs(choice - value))

    return {
        "dim": nearest(base.shape.dim, _DIMS),
        "blocks": int(np.clip(base.shape.blocks, *_BLOCKS)),
        "dropout": float(np.clip(base.shape.dropout, *_DROPOUT)),
        "id_dropout": float(np.clip(base.shape.id_dropout, *_ID_DROPOUT)),
        "learning_rate": float(np.clip(base.learning_rate, *_LEARNING_RATE)),
        "epochs": int(np.clip(base.epochs, *_EPOCHS)),
        "batch_tokens": nearest(base.batch_tokens, _BATCH_TOKENS),
        "ema": nearest(base.ema, _EMA),
        "augmentation": str(base.augmentation if base.augmentation in _AUGMENTATIONS else _AUGMENTATIONS[0]),
    }


def _score(
    trial: optuna.Trial,
    config: TwoTowerConfig,
    judges: Cases,
    progress: OnProgress,
    clock: Callable[[], float],
    ends: float,
) -> float:
    """NDCG@10 of the deciding half at the best epoch; notes the configuration and the ranks of the judging half."""
    reported: set[int] = set()

    def after_epoch(epochs: Sequence[EpochReport]) -> None:
        for epoch in epochs:
            if epoch.epoch not in reported:
                trial.report(epoch.validation["ndcg@10"], epoch.epoch)
                reported.add(epoch.epoch)
        if _FIRST not in trial.user_attrs and trial.should_prune():
            raise optuna.TrialPruned
        if clock() > ends:
            raise _OutOfTime

    result = train_two_tower.main(config, progress, after_epoch)
    ranks = next_item_ranks(result.scorer(), judges, len(result.items))
    trial.set_user_attr(_RANKS, ranks.tolist())
    trial.set_user_attr(_SETTINGS, settings_of(config))
    return result.validation["ndcg@10"]


def settings_of(config: TwoTowerConfig) -> dict[str, Any]:
    """What a search varies."""
    content = config.model_dump(mode="json")
    return {**{k: content[k] for k in _LOOP}, "shape": {k: content["shape"][k] for k in _SHAPE}}


def _finished(study: optuna.Study) -> int:
    return sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.get_trials(deepcopy=False))


def _line(trial: FrozenTrial) -> str:
    score = "pruned" if trial.value is None else f"NDCG@10 {trial.value:.4f}"
    shown = {name: f"{v:.3g}" if isinstance(v, float) else str(v) for name, v in trial.params.items()}
    is_default = _FIRST in trial.user_attrs
    chosen = "the default" if is_default else ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"trial {trial.number}: {score}; {chosen}"


def _result(
    tuning: RecallTuning, study: optuna.Study, asked: TwoTowerConfig, judges: Cases, report: Report
) -> Result:
    """Default and best on the judging half; a best one that gains there goes to `recall.yaml`."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    [default] = [trial for trial in complete if _FIRST in trial.user_attrs]
    best = study.best_trial
    ranks = {name: np.array(t.user_attrs[_RANKS]) for name, t in (("default", default), ("best", best))}
    figures = {"trials": float(_finished(study)), "pruned": float(_finished(study) - len(complete))}
    for name, found in ranks.items():
        figures |= {f"{name}_hr10": hit_rate(found, 10), f"{name}_ndcg10": ndcg(found, 10)}
    theirs, ours = (ndcgs(found, 10)[None, :] for found in ranks.values())
    [gain] = mean_differences(ours, theirs, np.array([h.user_id for h in judges.histories]))
    figures |= {"gain_ndcg10": gain.value, "gain_ndcg10_low": gain.low, "gain_ndcg10_high": gain.high}
    figures["cases"] = float(len(judges))
    _write_best(tuning.out / BEST, _settings(asked, best), best.number, figures, report)
    return Result("tune recall", tuning.seed, figures, {"gain_ndcg10": Goal(">=", 0.0)})


def _settings(asked: TwoTowerConfig, best: FrozenTrial) -> dict[str, Any]:
    """The whole of what `recsys train recall --config` trains: as asked, with what was found."""
    found = dict(best.user_attrs[_SETTINGS])
    content = asked.model_dump(mode="json", exclude=set(_OF_THE_COMMAND))
    return {**content, **found, "shape": {**content["shape"], **found["shape"]}}


def _write_best(
    file: Path, settings: Mapping[str, Any], number: int, figures: Mapping[str, float], report: Report
) -> None:
    if figures["gain_ndcg10"] <= 0:
        file.unlink(missing_ok=True)  # of an earlier search
        report(
            "nothing found that beats the default on the judging half; next: search on, or `recsys train recall`"
        )
        return
    about = (
        f"# Trial {number} of `recsys tune recall`: NDCG@10 {figures['best_ndcg10']:.4f}, the default"
        f" {figures['default_ndcg10']:.4f}, on {figures['cases']:.0f} held-out events that did not decide.\n"
    )
    atomic_write(file, about + yaml.safe_dump(dict(settings), sort_keys=False))
    report(f"next: recsys train recall --config {file}")
