"""How the two-tower of an evaluation is trained: as `recsys train recall` does, or by a published protocol's recipe."""

from collections.abc import Mapping
from typing import NamedTuple

from recsys.contracts.types import EventType
from recsys.models.two_tower import TwoTowerShape
from training.choices import Augmentation, Protocol
from training.evaluation.protocols import Split
from training.two_tower.batches import Windows
from training.two_tower.config import Validation
from training.two_tower.recipe import ENOUGH_CASES, EPOCHS, DataSize
from training.two_tower.recipe import recipe as by_size

LONGEST = 1_000  # events of a user, where the newest mean no more than others
FEW_CASES = 200  # below which differences may be chance


class Recipe(NamedTuple):
    """The model's shape, and fields of `TwoTowerConfig`."""

    shape: TwoTowerShape
    training: Mapping[str, object]


# Chosen on validation cases (docs/recall.md).
PUBLISHED: Mapping[Protocol, Recipe] = {
    Protocol.ML_1M: Recipe(
        TwoTowerShape(dim=128, blocks=2, heads=4, hidden=256, dropout=0.3, id_dropout=0.0),
        {
            "validation": Validation.NONE,  # the number of epochs was chosen on the second-last items
            "windows": Windows.NEWEST,
            "max_length": 200,
            "augmentation": Augmentation.REORDER,
            "epochs": 20,
            "warmup_steps": 200,
            "ema": 0.999,
        },
    ),
    Protocol.KUAIRAND: Recipe(
        TwoTowerShape(dim=64, blocks=2, heads=2, hidden=128),
        {
            "wanted": EventType.PURCHASE,  # a long view, as in the test cases
            "half_life_days": 30.0,
            "validation": Validation.NONE,  # the number of epochs was chosen on 05-03
            "epochs": 8,
            "ema": 0.99,
            "linear_rank": 256,
            "linear_weight": 10.0,  # chosen on 05-03, likewise
        },
    ),
}


def recipe(split: Split) -> Recipe:
    """As `recsys train recall` would train it, stopped early on the split's own validation cases if they are enough."""
    events = sum(len(h.numbers) for h in split.refit)
    training = dict(by_size(DataSize(len(split.items), len(split.refit), events)).values)
    if len(split.validation) < ENOUGH_CASES:
        training |= {"validation": Validation.NONE, "epochs": EPOCHS}
    else:
        training["validation"] = Validation.TIME if split.validation_from_ms else Validation.LAST_ITEM
    if not split.ordered:
        training |= {"augmentation": Augmentation.SHUFFLE, "max_length": LONGEST}
    return Recipe(TwoTowerShape(), training)
