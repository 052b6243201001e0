"""Train the ranker under user-level differential privacy: examples → the usual work folder, with what it cost.

The weights depend on a user through noisy sums alone. What of the usual training looks at users without noise is left
out: the taste model, calibration, items' uncertainty, the features' histograms, the choice of the best epoch, the
record by which a night would continue without noise. The model reads features of the user, the request and the
catalogue; counts of other users' events on an item are constant to it, unless `item_counts` takes them as public.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from recsys.contracts.errors import InvalidData
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.features.drift import HISTOGRAMS
from recsys.features.feature_set import FeatureSet
from recsys.items.item_table import read_items
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from recsys.operator_files import read_json
from recsys.ranking.taste import TASTE
from recsys.ranking.uncertainty import UNCERTAINTY
from training.config import Config
from training.private.gradients import check
from training.private.ledger import Ledger
from training.private.loop import PrivateLoop, fit_private, plan
from training.private.randomness import Randomness, SecureRandomness
from training.private.statistics import Statistics, private_statistics
from training.ranker.artifacts import CALIBRATION, SUMMARY, save_trained
from training.ranker.dataset import ItemFields, item_fields, read_examples, temporal_split
from training.ranker.loop import predict
from training.ranker.train import figures, write_model, write_summary
from training.seeding import seed_everything
from training.warm_start import WARM_START

# noise grows with the number of weights, signal does not
SMALL = RankerConfig(
    width=8,
    attention_heads=1,
    curve_width=1,
    category_width=2,
    field_width=4,
    cross_layers=1,
    cross_rank=8,
    shared_experts=1,
    expert_layers=(16,),
    tower_layers=(8,),
    dropout=0.0,
    item_dropout=0.0,
)


class PrivateTraining(Config):
    """Everything that decides a private training."""

    n_features: int = Field(description="D of the examples: `FEATURES.dimension`.")
    examples: Path = Field(description="Folder of the examples.")
    items: Path = Field(description="The item table, items.parquet.")
    out: Path = Field(description="Work folder for what a bundle needs.")
    history_length: int = Field(50, ge=1, description="Newest events of each history.")
    item_attributes: tuple[str, ...] = Field((), description="To embed, besides categories and creator.")
    item_counts: bool = Field(
        False, description="Read counts of all users' events on an item, as if they were public."
    )
    validation: float = Field(0.1, gt=0, lt=1, description="The latest share of the examples: for figures.")
    model: RankerConfig = Field(SMALL, description="Size of the model.")
    loop: PrivateLoop = Field(PrivateLoop(), description="How private, how long and how fast.")
    seed: int = Field(0, ge=0, description="Of the first weights. Samples and noise have none.")
    threads: int = Field(1, ge=1, description="Threads of torch.")


@dataclass(frozen=True)
class PrivateReport:
    """metrics: of the validation rows. privacy: as in the manifest. spent: epsilon of the whole ledger."""

    metrics: Mapping[str, float]
    privacy: Mapping[str, float | int | str]
    spent: float


def main(
    config: PrivateTraining,
    ledger: Ledger,
    report: Callable[[int, int], None] = lambda step, steps: None,
    randomness: Randomness | None = None,
) -> PrivateReport:
    """Train, write the work folder.

    Args:
        report: called after each step with its number and the number of steps.
        randomness: secure by default; another one is for tests.

    Raises:
        BudgetSpent: the ledger has not enough left.
        InvalidConfig: a setting does not go with private training.
        InvalidData: the examples or the item table are missing or do not fit.
    """
    check(config.model)
    torch.set_num_threads(config.threads)
    draws = SecureRandomness() if randomness is None else randomness
    items = read_items(config.items)
    ids = [item.item_id for item in items]
    rows = read_examples(config.examples, ids, config.n_features, config.history_length)
    train, validation = temporal_split(rows, config.validation)

    planned = plan(config.loop, len(np.unique(train.users)))
    spent = ledger.spend("ranker", planned.spends)
    read = range(config.n_features) if config.item_counts else own_columns(FEATURES)
    statistics = private_statistics(
        train.features, train.users, read, config.model.bins, config.loop.statistics_noise, draws
    )
    seed_everything(config.seed)
    facts = item_fields(items, config.item_attributes)
    ranker = Ranker(config.model, ranker_data(len(items), facts, statistics))
    fit_private(ranker, train, planned, draws, report)

    for not_private in (CALIBRATION, UNCERTAINTY, HISTOGRAMS, TASTE, WARM_START):
        (config.out / not_private).unlink(missing_ok=True)  # of an earlier training
    write_model(ranker, train.history.shape[1], config.out, config.seed)
    save_trained(ranker, config.out)
    metrics = figures(predict(ranker, validation), validation)
    privacy = planned.describe()
    write_summary(config.out, config, metrics, config.seed, [], {"privacy": privacy})
    return PrivateReport(metrics, privacy, spent)


def is_private(work: Path) -> bool:
    """Whether the ranker in this work folder was trained privately."""
    try:
        return bool(read_json(work / SUMMARY, dict[str, Any], InvalidData).get("privacy"))
    except FileNotFoundError:
        return False


def own_columns(features: FeatureSet) -> list[int]:
    """Columns that no event of another user enters: of the user, the request and the catalogue."""
    _, columns = features.placed(lambda f: all(total.entity is not Entity.ITEM for total in f.totals))
    return sorted(columns.tolist())


def ranker_data(n_items: int, facts: ItemFields, statistics: Statistics) -> RankerData:
    """What the model stores of the data."""
    mean, scale, edges = statistics
    return RankerData(
        n_items=n_items,
        n_features=len(mean),
        mean=mean,
        scale=scale,
        edges=edges,
        fields=torch.from_numpy(facts.codes),
        field_sizes=facts.sizes,
    )
