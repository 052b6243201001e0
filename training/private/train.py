"""Train the ranker under user-level differential privacy: examples → the usual work folder, with what it cost.

The weights depend on a user through noisy sums alone. What of the usual training looks at users without noise is left
out: the taste model, calibration, items' uncertainty, the features' histograms, the choice of the best epoch, the
record by which a night would continue without noise. The model reads features of the user, the request and the
catalogue; counts of other users' events on an item are constant to it, unless `item_counts` takes them as public.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import Field

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_SECOND
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.features.drift import HISTOGRAMS
from recsys.features.feature_set import FeatureSet
from recsys.items.item_table import read_items
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from recsys.ranking.taste import TASTE
from recsys.ranking.uncertainty import UNCERTAINTY
from training.config import Config
from training.privacy.ledger import Ledger
from training.privacy.randomness import Randomness, SecureRandomness
from training.private.loop import fit_private, plan
from training.private.ranker import RankerLearner, RankerLoop, check
from training.private.statistics import Statistics, private_statistics
from training.private.work_folder import PrivateReport, pay, trust_left_out
from training.ranker.artifacts import CALIBRATION, save_trained
from training.ranker.dataset import (
    ItemFields,
    RankExamples,
    item_fields,
    read_examples,
    sampled_flags,
    temporal_split,
)
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
    until: date | None = Field(
        None,
        description="Rows before this day (UTC) train, later ones are for figures; empty: the latest share is, and one"
        " user with many rows moves where it begins.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="That share.")
    model: RankerConfig = Field(SMALL, description="Size of the model.")
    loop: RankerLoop = Field(RankerLoop(), description="How private, how long and how fast.")
    seed: int = Field(0, ge=0, description="Of the first weights. Samples and noise have none.")
    threads: int = Field(1, ge=1, description="Threads of torch.")


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
        InvalidData: the examples, the item table or the ledger are missing or do not fit.
    """
    check(config.model)
    torch.set_num_threads(config.threads)
    draws = SecureRandomness() if randomness is None else randomness
    items = read_items(config.items)
    ids = [item.item_id for item in items]
    rows = read_examples(config.examples, ids, config.n_features, config.history_length)
    train, validation = _split(config, rows)

    planned = plan(config.loop, len(np.unique(train.users)))
    spent = pay(ledger, "ranker", planned.spends, config.out)
    read = range(config.n_features) if config.item_counts else own_columns(FEATURES)
    statistics = private_statistics(
        train.features, train.users, read, config.model.bins, config.loop.statistics_noise, draws
    )
    seed_everything(config.seed)
    facts = item_fields(items, config.item_attributes)
    ranker = Ranker(config.model, ranker_data(len(items), facts, statistics))
    fit_private(RankerLearner(ranker, train, config.loop), planned, draws, report)

    for not_private in (CALIBRATION, UNCERTAINTY, HISTOGRAMS, TASTE, WARM_START):
        (config.out / not_private).unlink(missing_ok=True)  # of an earlier training
    write_model(ranker, train.history.shape[1], config.out, config.seed)
    save_trained(ranker, config.out)
    metrics = figures(predict(ranker, validation), validation) if len(validation) else {}
    privacy = planned.describe() | {"takes_as_public": ", ".join(_assumed(config)) or "nothing"}
    write_summary(config.out, config, metrics, config.seed, [], {"privacy": privacy})
    return PrivateReport(metrics, privacy, spent)


def _split(config: PrivateTraining, rows: RankExamples) -> tuple[RankExamples, RankExamples]:
    if config.until is None:
        return temporal_split(rows, config.validation)
    midnight = datetime.combine(config.until, time(), UTC)
    first = int(np.searchsorted(rows.time_ms, round(midnight.timestamp() * MS_PER_SECOND)))
    if not first:
        raise InvalidConfig(f"until: no example is from before {config.until}; name a later day")
    return rows.take(slice(0, first)), rows.take(slice(first, None))


def _assumed(config: PrivateTraining) -> Iterator[str]:
    """What other users may decide about a user's rows: the guarantee takes it as public."""
    if config.until is None:
        yield "where the training period ends"
    if config.item_counts:
        yield "counts of all users on an item"
    if any(pc.any(part["sampled"]).as_py() for part in sampled_flags(config.examples)):
        yield "which rows were drawn"
    yield from trust_left_out(config.examples)


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
