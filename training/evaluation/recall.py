"""`recsys evaluate recall`: train the two-tower and its baselines on the past, then ask for what came next.

Full catalogue, seen items left out, the same cases for every model. Reported are accuracy, also on slices of the cases
where models differ, and how much of the catalogue is recommended and how unequally.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import EventType
from recsys.datasets.catalogue import items_path, users_path
from recsys.items.item_table import items_table, read_items
from recsys.lake.lake import write_parquet
from recsys.metrics import coverage, gini, hit_rate, mrr, ndcg, popularity_bias, ranks_of
from recsys.models.two_tower import TwoTowerShape
from recsys.result import Goal, Result
from training.choices import Augmentation, Protocol
from training.config import Config
from training.evaluation.baselines import tuned
from training.evaluation.lake import imported, lake_of
from training.evaluation.protocols import (
    Split,
    lake_histories,
    leave_one_out,
    read_ordered_sequences,
    temporal,
    temporal_shares,
)
from training.two_tower import train as train_two_tower
from training.two_tower.batches import Windows
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.cooccurrence import interactions
from training.two_tower.retrieval import Cases, Scorer, scored, two_tower_scorer
from training.two_tower.sequences import write_sequences
from training.two_tower.train import OnProgress

TWO_TOWER = "two_tower"
LIST_LENGTH = 10  # of coverage, Gini and popularity bias
LONG_HISTORY = 100
TAIL = 0.8  # share of the catalogue that is the tail: the least popular items


class RecallEvaluation(Config):
    """One evaluation."""

    data: Path = Field(description="A data set's folder, or a lake.")
    protocol: Protocol = Field(description="How the data is split into training and test.")
    work: Path = Field(description="Folder of the split and of the checkpoints.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures.")
    quick: bool = Field(False, description="One epoch of a small model, 500 cases.")
    max_cases: int = Field(10_000, ge=1, description="Test cases; more are sampled.")
    threads: int = Field(0, ge=0, description="Threads of torch; 0: its own choice.")
    training: Mapping[str, object] = Field(
        {}, description="Changes to the protocol's training configuration."
    )


# Chosen on validation cases (docs/recall.md).
_SHAPES: Mapping[Protocol, TwoTowerShape] = {
    Protocol.ML_1M: TwoTowerShape(dim=128, blocks=2, heads=4, hidden=256, dropout=0.3, id_dropout=0.0),
    Protocol.KUAIRAND: TwoTowerShape(dim=64, blocks=2, heads=2, hidden=128),
    Protocol.TEMPORAL: TwoTowerShape(dim=64, blocks=2, heads=2, hidden=128),
}
_TRAINING: Mapping[Protocol, Mapping[str, object]] = {
    Protocol.ML_1M: {
        "validation": Validation.NONE,  # the number of epochs was chosen on the second-last items
        "windows": Windows.NEWEST,
        "max_length": 200,
        "augmentation": Augmentation.REORDER,
        "epochs": 20,
        "warmup_steps": 200,
        "ema": 0.999,
    },
    Protocol.KUAIRAND: {
        "wanted": EventType.PURCHASE,  # a long view, as in the test cases
        "half_life_days": 30.0,
        "validation": Validation.NONE,  # the number of epochs was chosen on 05-03
        "epochs": 8,
        "ema": 0.99,
    },
    Protocol.TEMPORAL: {"epochs": 8},
}
_GOALS: Mapping[Protocol, Mapping[str, float]] = {
    Protocol.ML_1M: {"hr10": 0.320, "ndcg10": 0.183, "hr50": 0.60, "hr200": 0.79}
}
_BEAT: Mapping[Protocol, Sequence[str]] = {  # metrics in which every baseline must be beaten
    Protocol.ML_1M: ("hr10", "ndcg10", "hr200"),
    Protocol.KUAIRAND: ("hr10", "hr200", "coverage10"),
    Protocol.TEMPORAL: ("hr10", "ndcg10"),
}
# KuaiRand's days are China's, UTC+8
_KUAIRAND_VALIDATION_MS = 1_651_507_200_000  # 2022-05-03 00:00
_KUAIRAND_TEST_MS = 1_651_593_600_000  # 2022-05-04 00:00


def main(config: RecallEvaluation, progress: OnProgress = lambda phase, done, epochs: None) -> Result:
    """Every figure is named `<model>_<metric>[_<slice>]`; `progress` is of the two-tower's training.

    Raises:
        InvalidData: the data cannot be read or is too small for the protocol.
    """
    split = read_split(config)
    test = split.test.sample(500 if config.quick else config.max_cases, config.seed)
    started = time.monotonic()
    fitted = tuned(split.train, split.validation.sample(1000, config.seed), split.refit, len(split.items))
    figures = {"baselines_s": time.monotonic() - started}
    scorers = {name: scorer for name, (scorer, _) in fitted.items()}
    training = training_config(config, split)
    trained = train_two_tower.main(training, progress)
    scorers[TWO_TOWER] = two_tower_scorer(trained.model, trained.config.max_length, trained.profiles)
    figures |= {
        "two_tower_training_s": sum(e.seconds for e in trained.epochs),
        "two_tower_s_per_epoch": float(np.mean([e.seconds for e in trained.epochs])),
        "two_tower_epochs": float(len(trained.epochs)),
        "two_tower_targets_per_s": float(np.median([e.targets_per_s for e in trained.epochs])),
        "loader_targets_per_s": float(np.median([e.loader_targets_per_s for e in trained.epochs])),
        "waited_for_loader_s": sum(e.waited_s for e in trained.epochs),
    }
    popularity = np.asarray(interactions(split.refit, len(split.items)).sum(0), np.float64).ravel()
    slices = slice_cases(test, popularity, {h.user_id for h in split.refit})
    figures |= {f"cases_{name}": float(mask.sum()) for name, mask in slices.items()}
    figures["cases"] = float(len(test))
    for name, scorer in scorers.items():
        metrics = measure(scorer, test, popularity, slices)
        figures |= {f"{name}_{metric}": value for metric, value in metrics.items()}
    shutil.rmtree(training.work)  # so that the next run trains with the current code and data
    return Result("evaluate recall", config.seed, figures, goals(config.protocol, figures, sorted(fitted)))


def goals(protocol: Protocol, figures: dict[str, float], baselines: Sequence[str]) -> dict[str, Goal]:
    """Adds `<metric>_over_best_baseline` (a ratio) to the figures."""
    wanted = {
        f"{TWO_TOWER}_{metric}": Goal(">=", value) for metric, value in _GOALS.get(protocol, {}).items()
    }
    for metric in _BEAT[protocol]:
        best = max(figures[f"{name}_{metric}"] for name in baselines)
        ours = figures[f"{TWO_TOWER}_{metric}"]
        figures[f"{metric}_over_best_baseline"] = ours / best if best else float("inf")
        wanted[f"{metric}_over_best_baseline"] = Goal(">", 1.0)
    return wanted


def read_split(config: RecallEvaluation) -> Split:
    if config.protocol is Protocol.ML_1M:
        return leave_one_out(*read_ordered_sequences(config.data))
    lake = imported(config.data, config.work)
    items = read_items(items_path(lake))
    histories = lake_histories(lake, items)
    if config.protocol is Protocol.KUAIRAND:
        return temporal(histories, items, _KUAIRAND_VALIDATION_MS, _KUAIRAND_TEST_MS, EventType.PURCHASE)
    return temporal_shares(histories, items)


def training_config(config: RecallEvaluation, split: Split) -> TwoTowerConfig:
    """Write the split's training part where the trainer reads it."""
    sequences, items = config.work / "sequences", config.work / "items.parquet"
    write_sequences(sequences / "refit.parquet", split.refit, split.items)
    write_parquet(items, items_table(split.items))
    users = users_path(lake_of(config.data, config.work))
    shape = _SHAPES[config.protocol].model_copy(update={"profile": users.exists()})
    changes = dict(config.training)
    if config.quick:
        shape = shape.model_copy(update={"dim": 32, "blocks": 1, "heads": 1, "hidden": 64})
        changes = {"epochs": 1, "max_length": 50, **changes}
    settings: dict[str, object] = {
        "sequences": sequences,
        "users": users if users.exists() else None,
        "items": items,
        "work": config.work / _run_name(config),
        "seed": config.seed,
        "threads": config.threads,
        "shape": shape,
        "bf16": torch.cuda.is_available(),
        "validation_from_ms": split.validation_from_ms,
        "repeats": {},  # the protocols ask for items that are new to the user
    }
    try:
        return TwoTowerConfig.model_validate({**settings, **_TRAINING[config.protocol], **changes})
    except ValueError as error:
        raise InvalidConfig(f"training configuration: {error}") from error


def _run_name(config: RecallEvaluation) -> str:
    """Name of the checkpoints' folder: runs that differ do not resume from each other."""
    varied = [str(config.training["augmentation"])] if "augmentation" in config.training else []
    return "-".join(["quick" if config.quick else "two_tower", str(config.seed), *varied])


def slice_cases(
    cases: Cases, popularity: NDArray[np.float64], trained_users: set[str]
) -> dict[str, NDArray[np.bool_]]:
    """Which cases belong to each slice. `popularity` (n_items,): users who had the item before the test."""
    tail = np.argsort(popularity, kind="stable")[: int(TAIL * len(popularity))]
    return {
        "new_users": np.array([h.user_id not in trained_users for h in cases.histories]),
        "new_items": popularity[cases.targets] == 0,
        "tail_items": np.isin(cases.targets, tail),
        "long_histories": np.array([len(h.numbers) >= LONG_HISTORY for h in cases.histories]),
    }


def measure(
    scorer: Scorer, cases: Cases, popularity: NDArray[np.float64], slices: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Accuracy over all cases and each non-empty slice; the composition of the top lists."""
    ranks = np.zeros(len(cases), np.int64)
    lists = np.zeros((len(cases), LIST_LENGTH), np.int64)
    for places, scores in scored(scorer, cases):
        ranks[places] = ranks_of(scores, cases.targets[places])
        lists[places] = np.argpartition(-scores, LIST_LENGTH, axis=1)[:, :LIST_LENGTH]
    metrics = {f"hr{k}": hit_rate(ranks, k) for k in (10, 50, 200)}
    metrics |= {"ndcg10": ndcg(ranks, 10), "mrr": mrr(ranks)}
    metrics |= {
        "coverage10": coverage(lists, len(popularity)),
        "gini10": gini(lists, len(popularity)),
        "popularity_bias10": popularity_bias(lists, popularity),
    }
    for name, mask in slices.items():
        if mask.any():
            metrics |= {
                f"hr10_{name}": hit_rate(ranks[mask], 10),
                f"hr200_{name}": hit_rate(ranks[mask], 200),
            }
    return metrics
