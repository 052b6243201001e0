"""Train the two-tower under user-level differential privacy: sequences → the usual work folder, with what it cost.

Weights and popular items depend on a user through noisy sums alone, and the rest follows from them: vectors, the
index, similar items. What of the usual training looks at users without noise is left out: which seen items may return,
counts for the losses, early stopping, neighbours by co-occurrence, golden inputs from histories, the record by which a
night would continue.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item
from recsys.items.item_table import read_items
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.result import to_json
from training.config import Config
from training.privacy.ledger import Ledger
from training.privacy.randomness import Randomness, SecureRandomness
from training.private.item_counts import private_counts, start_from
from training.private.loop import Plan, fit_private, plan
from training.private.two_tower import TwoTowerLearner, TwoTowerLoop, check
from training.private.work_folder import PrivateReport, pay, trust_left_out
from training.seeding import seed_everything
from training.two_tower.export import invented_inputs, item_vectors, nearest_items, write_towers
from training.two_tower.sequences import History, SequenceFiles
from training.two_tower.warm_start import SUMMARY
from training.warm_start import WARM_START, WEIGHTS

# noise grows with the number of weights, signal does not
SMALL = TwoTowerShape(
    dim=16, blocks=1, heads=1, hidden=16, max_distance=50, attribute_buckets=1024, dropout=0.0, id_dropout=0.0
)


class TwoTowerRecipe(Config):
    """What decides a private training, given the data."""

    shape: TwoTowerShape = Field(SMALL, description="Size of the model.")
    loop: TwoTowerLoop = Field(TwoTowerLoop(), description="How private, how long and how fast.")
    seed: int = Field(
        0, ge=0, description="Of the first weights and of samples of items; noise and users have none."
    )


class PrivateTwoTower(TwoTowerRecipe):
    """Everything that decides it."""

    sequences: Path = Field(description="Folder of sequence files.")
    items: Path = Field(description="The item table, items.parquet.")
    examples: Path = Field(
        description="Folder of the examples, which say what was left out of the sequences."
    )
    out: Path = Field(description="Work folder for what a bundle needs.")
    threads: int = Field(1, ge=1, description="Threads of torch.")


def main(
    config: PrivateTwoTower,
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
        InvalidData: the sequences, the item table or the ledger are missing or do not fit.
    """
    check(config.shape)
    torch.set_num_threads(config.threads)
    items = read_items(config.items)
    histories = list(SequenceFiles(config.sequences, items).read())
    if len({history.user_id for history in histories}) < len(histories):
        raise InvalidData(f"{config.sequences}: a user has two histories, and would be hidden half as well")
    planned = plan(config.loop, len(histories))
    spent = pay(ledger, "two-tower", planned.spends, config.out)
    draws = SecureRandomness() if randomness is None else randomness
    model, counts = trained(config, planned, histories, items, draws, report)

    config.out.mkdir(parents=True, exist_ok=True)
    for not_private in (WARM_START, WEIGHTS):  # of an earlier training
        (config.out / not_private).unlink(missing_ok=True)
    golden = invented_inputs(len(items), np.random.default_rng(config.seed))
    write_towers(model, config.out, golden, nearest_items(item_vectors(model).vectors), counts)
    public = trust_left_out(config.examples)
    privacy = planned.describe() | {"takes_as_public": ", ".join(public) or "nothing"}
    summary = {
        "config": config.model_dump(mode="json"),
        "metrics": {},  # no quality: nothing is held out
        "seed": config.seed,
        "privacy": privacy,
    }
    (config.out / SUMMARY).write_text(to_json(summary, indent=2), encoding="utf-8")
    return PrivateReport({}, privacy, spent)


def trained(
    recipe: TwoTowerRecipe,
    planned: Plan,
    histories: Sequence[History],
    items: Sequence[Item],
    randomness: Randomness,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[TwoTower, NDArray[np.float64]]:
    """A new two-tower, and how popular the items are (n_items,), for what `planned` costs."""
    seed_everything(recipe.seed)
    model = TwoTower(recipe.shape, items)
    learner = TwoTowerLearner(model, recipe.shape, histories, recipe.loop, recipe.seed)
    counts = private_counts(learner.targets, len(items), recipe.loop.statistics_noise, randomness)
    start_from(model, counts)
    fit_private(learner, planned, randomness, report)
    return model, counts
