"""How the two-tower of an evaluation is trained: the recipes of the published protocols, and one by the data's size."""

from collections.abc import Mapping
from typing import NamedTuple

from recsys.contracts.types import EventType
from recsys.models.two_tower import TwoTowerShape
from training.choices import Augmentation, Protocol
from training.evaluation.protocols import Split
from training.two_tower.batches import Windows
from training.two_tower.config import Validation
from training.two_tower.losses import LossName

FEW_CASES = 200  # validation cases, below which their best epoch is chance
_FULL_SOFTMAX = 100_000  # items, beyond which negatives are drawn
_SMALL_LOG = 150_000  # events
_SMALL = TwoTowerShape(dim=64, heads=2, hidden=128, dropout=0.2)
_LARGE = TwoTowerShape(dim=128, heads=4, hidden=256, dropout=0.3)
_ORDERED = _LARGE.model_copy(update={"id_dropout": 0.0})  # where hardly an item is new in the test
_EPOCHS_SMALL = 10
_EPOCHS = (2, 20)  # at least and at most of a larger log
_TARGETS = 16_000_000  # of both phases together: about a quarter of an hour of two cores
_BATCH_TOKENS = 2_048


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
        },
    ),
}


def recipe(split: Split) -> Recipe:
    """By the size of the log and of the catalogue."""
    events, n_items = sum(len(h.numbers) for h in split.refit), len(split.items)
    validated = len(split.validation) >= FEW_CASES
    timed = Validation.TIME if split.validation_from_ms else Validation.LAST_ITEM
    affordable = max(_TARGETS // (2 * max(events, 1)), _EPOCHS[0])  # once to validate, once in full
    small = events < _SMALL_LOG
    shape = _SMALL if small else _LARGE if split.validation_from_ms else _ORDERED
    training: dict[str, object] = {
        "validation": timed if validated else Validation.NONE,
        "validation_cases": 3_000,
        "patience": 3,
        "epochs": _EPOCHS_SMALL if small else min(affordable, _EPOCHS[1]),
        "ema": min(max(1 - _BATCH_TOKENS / max(events, 1), 0.9), 0.999),  # over about an epoch's batches
        "loss": LossName.FULL if n_items <= _FULL_SOFTMAX else LossName.MIXED,
        "negatives": 4_096,
    }
    return Recipe(shape, training)
