"""`recsys evaluate private --model two-tower`: what user-level differential privacy costs recall, on MovieLens-1M.

The published protocol of `recsys evaluate recall --protocol ml-1m`: each user's last film among the full catalogue.
Plain and private two-towers have one shape. Nothing here is released, so draws are seeded and no ledger is written.
"""

import math
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.metrics import hits
from recsys.result import Goal, Result
from training.bootstrap import Weights, bootstrap
from training.config import Config
from training.evaluation.baselines import TrainingHistories, popularity
from training.evaluation.protocols import Split, leave_one_out
from training.evaluation.sources import SEQUENCES, read_sequences
from training.privacy.randomness import SeededRandomness
from training.private.loop import Plan, plan
from training.private.train_two_tower import TwoTowerRecipe, trained
from training.private.two_tower import TwoTowerLoop
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.retrieval import Scorer, next_item_ranks, two_tower_scorer
from training.two_tower.sequences import write_sequences

EPSILONS = (8.0, 3.0)
AT = (10, 100)  # of hit rates: lists that are shown, candidates that are ranked


class PrivateTwoTowerEvaluation(Config):
    """What to run."""

    data: Path = Field(description="Folder with `sequences_stable.txt`.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures.")
    recipe: TwoTowerRecipe = Field(
        TwoTowerRecipe(loop=TwoTowerLoop(delta=1e-5)), description="Of the private models; epsilon is varied."
    )
    plain_epochs: int = Field(6, ge=1, description="Of the plain model.")

    def quick(self) -> "PrivateTwoTowerEvaluation":
        """One epoch each; the figures mean nothing."""
        loop = self.recipe.loop.replace(epochs=1)
        return self.replace(recipe=self.recipe.replace(loop=loop), plain_epochs=1)


def main(config: PrivateTwoTowerEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train and judge.

    Args:
        report: receives one line per model.

    Raises:
        InvalidData: the data cannot be read.
    """
    torch.set_num_threads(1)
    split = leave_one_out(read_sequences(config.data / SEQUENCES))
    config = config.replace(recipe=config.recipe.replace(seed=config.seed))
    plans = {f"private_{epsilon:g}": _plan(config.recipe, split, epsilon) for epsilon in EPSILONS}
    plans["private_inf"] = Plan(config.recipe.loop, len(split.refit), 0.0)
    scorers = chain(
        [("popularity", popularity(TrainingHistories(split.refit, len(split.items))))],
        [("plain", _plain(config, split))],
        ((name, _private(config.recipe, planned, split)) for name, planned in plans.items()),
    )
    hit: dict[str, NDArray[np.float64]] = {}
    for name, scorer in scorers:
        ranks = next_item_ranks(scorer, split.test, len(split.items))[:, None]
        hit |= {f"{name}_hr{k}": hits(ranks, k) for k in AT}
        found = ", ".join(f"HR@{k} {hit[f'{name}_hr{k}'].mean():.4f}" for k in AT)
        report(f"{name}: {found}")
    figures = {"users": float(len(split.refit)), "cases": float(len(split.test))} | intervals(hit)
    figures |= {f"noise_multiplier_{name}": planned.noise_multiplier for name, planned in plans.items()}
    goals = {f"private_{epsilon:g}_over_popularity_hr10_low": Goal(">", 1.0) for epsilon in EPSILONS}
    return Result("evaluate private --model two-tower", config.seed, figures, goals, notes(config, plans))


def intervals(hit: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Hit rates, and how many times popularity's they are, each with its 95 % interval by bootstrap over users."""
    others = [name for name in hit if not name.startswith("popularity")]
    of_popularity = {name: f"popularity_{name.rpartition('_')[2]}" for name in others}
    names = [*hit, *(name.replace("_hr", "_over_popularity_hr") for name in others)]

    def figures(drawn: Weights) -> list[float]:
        rates = {name: float(found @ drawn) / float(drawn.sum()) for name, found in hit.items()}
        return [*rates.values(), *(rates[name] / (rates[of_popularity[name]] or math.nan) for name in others)]

    found: dict[str, float] = {}
    for name, estimate in zip(names, bootstrap(figures, len(hit[names[0]]), rounds=1_000), strict=True):
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found


def notes(config: PrivateTwoTowerEvaluation, plans: Mapping[str, Plan]) -> tuple[str, ...]:
    planned = plans["private_inf"]
    return (
        f"unit: user, of {planned.users:,}, newest {config.recipe.loop.max_length} events; delta"
        f" {config.recipe.loop.delta:g}; {planned.steps} steps, sampling rate {planned.sample_rate:.2f}",
        "plain: the usual training of the same shape; private_inf: clipped like the others, without noise on gradients",
    )


def _plan(recipe: TwoTowerRecipe, split: Split, epsilon: float) -> Plan:
    return plan(recipe.loop.replace(epsilon=epsilon), len(split.refit))


def _private(recipe: TwoTowerRecipe, planned: Plan, split: Split) -> Scorer:
    model, _ = trained(recipe, planned, split.refit, split.items, SeededRandomness(recipe.seed))
    return two_tower_scorer(model, recipe.loop.max_length)


def _plain(config: PrivateTwoTowerEvaluation, split: Split) -> Scorer:
    """Of the same shape, on the same data, trained as usual; with dropout it would be no better at this size."""
    with TemporaryDirectory() as folder:
        write_sequences(Path(folder) / "sequences" / "refit.parquet", split.refit, split.items)
        write_parquet(Path(folder) / "items.parquet", items_table(split.items))
        training = TwoTowerConfig(
            sequences=Path(folder) / "sequences",
            items=Path(folder) / "items.parquet",
            work=Path(folder),
            seed=config.seed,
            shape=config.recipe.shape,
            max_length=config.recipe.loop.max_length,
            epochs=config.plain_epochs,
            learning_rate=1e-2,
            ema=0.99,
            validation=Validation.NONE,
            repeats={},
            threads=1,
        )
        return two_tower_scorer(train_two_tower.main(training).model, training.max_length)
