"""`recsys evaluate recall`: train the two-tower and its baselines on the past, then ask for what came next.

Full catalogue, seen items left out, the same cases for every model. Reported are accuracy, also on slices of the cases
where models differ, how much of the catalogue is recommended and how unequally, and by how much the two-tower leads.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import EventType
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.result import Goal, Result
from training.choices import Order, Protocol
from training.config import Config
from training.evaluation.baselines import tuned
from training.evaluation.measure import Measured, lead, mean, measure, slice_cases
from training.evaluation.protocols import Split, given, leave_one_out, temporal, temporal_shares
from training.evaluation.recipes import FEW_CASES, PUBLISHED, recipe
from training.evaluation.sources import SEQUENCES, read_log, read_sequences, users_of_both
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig
from training.two_tower.cooccurrence import interactions
from training.two_tower.result import EpochReport
from training.two_tower.retrieval import Cases
from training.two_tower.sequences import write_sequences
from training.two_tower.train import OnProgress

TWO_TOWER = "two_tower"
_PROCESS_GIB = 1.0  # of `memory_gib`: Python, torch, the log, a batch's scores


class RecallEvaluation(Config):
    """One evaluation."""

    protocol: Protocol = Field(description="How the data is split into training and test.")
    data: Path | None = Field(None, description="A data set, a lake, or a file of sequences; not of `given`.")
    train: Path | None = Field(None, description="Of `given`: likewise, what is trained on.")
    test: Path | None = Field(None, description="Of `given`: likewise, the items that are asked for.")
    order: Order = Field(Order.AUTO, description="Of `given`: whether the order of events means something.")
    train_until: datetime | None = Field(
        None, description="Of `temporal`: when validation begins, UTC if it names no zone; empty: by shares."
    )
    validate_until: datetime | None = Field(None, description="Of `temporal`: when the test begins.")
    work: Path = Field(description="Where each evaluation has a folder for its split and checkpoints.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures.")
    seeds: int = Field(1, ge=1, description="Trainings of the two-tower, of which the mean is reported.")
    quick: bool = Field(False, description="One epoch of a small model, 500 cases.")
    max_cases: int = Field(10_000, ge=1, description="Test cases; more are sampled.")
    memory_gib: float = Field(8.0, gt=0, description="A baseline that needs more is left out.")
    threads: int = Field(0, ge=0, description="Threads of torch; 0: its own choice.")
    training: Mapping[str, object] = Field(
        {}, description="Changes to the protocol's training configuration."
    )

    @property
    def folder(self) -> Path:
        """Evaluations of other data or times have another one."""
        sources = [path.resolve() for path in (self.data, self.train, self.test) if path]
        key = json.dumps([*map(str, sources), str(self.train_until), str(self.validate_until), self.order])
        names = [
            str(self.protocol),
            *(path.name for path in sources),
            hashlib.sha256(key.encode()).hexdigest()[:8],
        ]
        return self.work / "-".join(names)


_GOALS: Mapping[Protocol, Mapping[str, float]] = {
    Protocol.ML_1M: {"hr10": 0.320, "ndcg10": 0.183, "hr50": 0.60, "hr200": 0.79}
}
_BEAT: Mapping[Protocol, Sequence[str]] = {  # metrics in which every baseline must be beaten
    Protocol.ML_1M: ("hr10", "ndcg10", "hr200"),
    Protocol.KUAIRAND: ("hr10", "hr200", "coverage10"),
}
_BEAT_ELSEWHERE = ("hr10", "ndcg10", "recall20")
# KuaiRand's days are China's, UTC+8
_KUAIRAND_VALIDATION_MS = 1_651_507_200_000  # 2022-05-03 00:00
_KUAIRAND_TEST_MS = 1_651_593_600_000  # 2022-05-04 00:00


def main(
    config: RecallEvaluation,
    progress: OnProgress = lambda phase, done, epochs: None,
    changed: Callable[[TwoTowerConfig], TwoTowerConfig] = lambda planned: planned,
) -> Result:
    """Every figure is named `<model>_<metric>[_<slice>]`.

    Args:
        progress: of the two-tower's training.
        changed: gives what is trained instead of what the protocol would train; called before anything is.

    Raises:
        InvalidData: the data cannot be read or is too small for the protocol.
        InvalidConfig: the data, or a change of the training, is missing or does not fit.
    """
    split = read_split(config)
    write_split(config, split)
    trainings = [
        in_own_folder(changed(training_config(config, split, seed)), split) for seed in _seeds(config)
    ]
    test = split.test.sample(500 if config.quick else config.max_cases, config.seed)
    popularity = np.asarray(interactions(split.refit, len(split.items)).sum(0), np.float64).ravel()
    slices = slice_cases(test, popularity, {h.user_id for h in split.refit})
    figures = {"cases": float(len(test)), "left_out_cases": float(len(split.test) - len(test))}
    figures |= {f"cases_{name}": float(mask.sum()) for name, mask in slices.items()}
    figures |= {name: float(n) for name, n in split.left_out.items()}
    notes = list(split.notes)
    if len(test) < FEW_CASES:
        notes.append(f"cases: only {len(test)}, fewer than {FEW_CASES}; differences may be chance")
    if len(split.validation) < FEW_CASES:
        notes.append(f"validation cases: only {len(split.validation)}; settings and epochs are hardly tuned")

    started = time.monotonic()
    measured = _baselines(config, split, test, popularity, notes)
    figures["baselines_s"] = time.monotonic() - started
    runs, speed = _two_towers(trainings, test, popularity, progress)
    ours = mean(runs)
    figures |= speed | _spread(runs)
    for name, model in {**measured, TWO_TOWER: ours}.items():
        figures |= {f"{name}_{metric}": value for metric, value in model.figures(slices).items()}
    beat, users = _BEAT.get(config.protocol, _BEAT_ELSEWHERE), [h.user_id for h in test.histories]
    for name, model in measured.items():
        leads = lead(ours, model, beat, users)
        figures |= {f"{TWO_TOWER}_over_{name}_{metric}": value for metric, value in leads.items()}
    wanted = goals(config.protocol, figures, sorted(measured), notes)
    for training in trainings:  # so that the next run trains with the current code and data
        shutil.rmtree(training.work)
    return Result("evaluate recall", config.seed, figures, wanted, notes)


def _baselines(
    config: RecallEvaluation, split: Split, test: Cases, popularity: NDArray[np.float64], notes: list[str]
) -> dict[str, Measured]:
    """Each baseline that the memory allows; adds to the notes which settings were chosen, and which are left out."""
    measured, chosen = {}, []
    validation = split.validation.sample(1000, config.seed)
    memory_gib = config.memory_gib - _PROCESS_GIB
    for baseline in tuned(split.train, validation, split.refit, len(split.items), memory_gib):
        if baseline.scorer is None:
            notes.append(f"{baseline.name} is left out: {baseline.settings}")
        else:
            measured[baseline.name] = measure(baseline.scorer, test, popularity)
            chosen.append(f"{baseline.name} {baseline.settings}")
        del baseline  # before the next one is fitted: one is in memory at a time
    notes.append(f"settings of the baselines: {'; '.join(chosen)}")
    return measured


def in_own_folder(config: TwoTowerConfig, split: Split) -> TwoTowerConfig:
    """With checkpoints in a folder that trainings of other settings, or of more data, do not continue from."""
    events = sum(len(h.numbers) for h in split.refit)
    content = config.model_dump_json() + repr((len(split.refit), len(split.items), events))
    return config.replace(work=config.work / hashlib.sha256(content.encode()).hexdigest()[:12])


def _two_towers(
    trainings: Sequence[TwoTowerConfig],
    test: Cases,
    popularity: NDArray[np.float64],
    progress: OnProgress,
) -> tuple[list[Measured], dict[str, float]]:
    """The two-tower of each seed, measured; figures of how fast they were trained."""
    runs: list[Measured] = []
    epochs: list[EpochReport] = []
    for training in trainings:
        trained = train_two_tower.main(training, progress)
        runs.append(measure(trained.scorer(), test, popularity))
        epochs += trained.epochs
    return runs, {
        "two_tower_training_s": sum(e.seconds for e in epochs),
        "two_tower_s_per_epoch": float(np.mean([e.seconds for e in epochs])),
        "two_tower_epochs": len(epochs) / len(trainings),
        "two_tower_targets_per_s": float(np.median([e.targets_per_s for e in epochs])),
        "loader_targets_per_s": float(np.median([e.loader_targets_per_s for e in epochs])),
        "waited_for_loader_s": sum(e.waited_s for e in epochs),
    }


def _seeds(config: RecallEvaluation) -> range:
    return range(config.seed, config.seed + config.seeds)


def _spread(runs: Sequence[Measured]) -> dict[str, float]:
    """Standard deviation over the seeds, where there are several."""
    if len(runs) < 2:
        return {}
    found = [run.figures({}) for run in runs]
    return {f"{TWO_TOWER}_{m}_sd": float(np.std([run[m] for run in found], ddof=1)) for m in found[0]}


def goals(
    protocol: Protocol, figures: dict[str, float], baselines: Sequence[str], notes: list[str]
) -> dict[str, Goal]:
    """Adds `<metric>_over_best_baseline` (a ratio) to the figures, or to the notes why it is not measured."""
    wanted = {
        f"{TWO_TOWER}_{metric}": Goal(">=", value) for metric, value in _GOALS.get(protocol, {}).items()
    }
    for metric in _BEAT.get(protocol, _BEAT_ELSEWHERE):
        best = max((figures[f"{name}_{metric}"] for name in baselines), default=0.0)
        if best:
            figures[f"{metric}_over_best_baseline"] = figures[f"{TWO_TOWER}_{metric}"] / best
            wanted[f"{metric}_over_best_baseline"] = Goal(">", 1.0)
        else:
            notes.append(f"{metric}_over_best_baseline is not measured: no baseline is above 0")
    return wanted


def read_split(config: RecallEvaluation) -> Split:
    """
    Raises:
        InvalidData: as `main`.
        InvalidConfig: a path is missing.
    """
    if config.protocol is Protocol.GIVEN:
        if config.train is None or config.test is None:
            raise InvalidConfig("the protocol given reads two sources; add --train and --test")
        train = read_log(config.train, config.folder / "train")
        test = read_log(config.test, config.folder / "test")
        users = users_of_both(train, test, config.folder / "users.parquet")
        return given(train, test, users, config.order)
    if config.data is None:
        raise InvalidConfig(f"the protocol {config.protocol} splits one source; add --data")
    if config.protocol is Protocol.ML_1M:
        return leave_one_out(read_sequences(config.data / SEQUENCES))
    log = read_log(config.data, config.folder / "lake")
    if config.protocol is Protocol.LEAVE_ONE_OUT:
        return leave_one_out(log)
    if config.protocol is Protocol.KUAIRAND:
        return temporal(log, _KUAIRAND_VALIDATION_MS, _KUAIRAND_TEST_MS, EventType.PURCHASE)
    begins = [_ms(moment) for moment in (config.train_until, config.validate_until) if moment]
    if not begins:
        return temporal_shares(log)
    if len(begins) < 2 or begins[0] >= begins[1]:
        raise InvalidConfig(
            "a temporal split needs two moments; give --train-until and a later --validate-until"
        )
    return temporal(log, begins[0], begins[1])


def _ms(moment: datetime) -> int:
    """Unix milliseconds."""
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def write_split(config: RecallEvaluation, split: Split) -> None:
    """Write what is trained on where the trainer reads it."""
    write_sequences(config.folder / "sequences" / "refit.parquet", split.refit, split.items)
    write_parquet(config.folder / "items.parquet", items_table(split.items))


def training_config(config: RecallEvaluation, split: Split, seed: int) -> TwoTowerConfig:
    """What the protocol trains, on what `write_split` has written."""
    shape, training = PUBLISHED[config.protocol] if config.protocol in PUBLISHED else recipe(split)
    shape = shape.model_copy(update={"profile": split.users is not None})
    changes = dict(config.training)
    if config.quick:
        shape = shape.model_copy(update={"dim": 32, "blocks": 1, "heads": 1, "hidden": 64})
        changes = {"epochs": 1, "max_length": 50, **changes}
    settings: dict[str, object] = {
        "sequences": config.folder / "sequences",
        "users": split.users,
        "items": config.folder / "items.parquet",
        "work": config.folder / "checkpoints",
        "seed": seed,
        "threads": config.threads,
        "shape": shape,
        "bf16": torch.cuda.is_available(),
        "validation_from_ms": split.validation_from_ms,
        "repeats": {},  # the protocols ask for items that are new to the user
    }
    try:
        return TwoTowerConfig.model_validate({**settings, **training, **changes})
    except ValueError as error:
        raise InvalidConfig(f"training configuration: {error}") from error
