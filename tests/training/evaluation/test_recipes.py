"""The recipe follows from the data's size, and every one is a valid configuration."""

from pathlib import Path

import pytest

from recsys.contracts.types import Item
from tests.training.evaluation.histories import history
from training.evaluation.protocols import Split
from training.evaluation.recipes import PUBLISHED, Recipe, recipe
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.losses import LossName
from training.two_tower.retrieval import Cases

NONE = Cases([], [], [])


def split(events: int, items: int = 10, validation_cases: int = 1_000, from_ms: int = 0) -> Split:
    users = [history("u", *[1] * events)]
    cases = Cases([history("v")] * validation_cases, [], [])
    return Split([Item("i")] * items, users, cases, users, NONE, from_ms)


def configured(found: Recipe) -> TwoTowerConfig:
    nowhere = {"sequences": Path("s"), "items": Path("i"), "work": Path("w")}
    return TwoTowerConfig.model_validate({**nowhere, "shape": found.shape, **found.training})


@pytest.mark.parametrize(
    ("data", "dim", "epochs", "loss", "validation"),
    [
        (split(80_000), 64, 10, LossName.FULL, Validation.LAST_ITEM),  # MovieLens-100K
        (split(200_000), 128, 20, LossName.FULL, Validation.LAST_ITEM),  # Amazon Beauty
        (split(1_000_000, from_ms=1), 128, 8, LossName.FULL, Validation.TIME),  # MovieLens-1M
        (split(9_000_000), 128, 2, LossName.FULL, Validation.LAST_ITEM),
        (split(200_000, items=100_001), 128, 20, LossName.MIXED, Validation.LAST_ITEM),
        (split(500, validation_cases=199), 64, 10, LossName.FULL, Validation.NONE),
        (split(0, validation_cases=0), 64, 10, LossName.FULL, Validation.NONE),
    ],
)
def test_known_sizes(data: Split, dim: int, epochs: int, loss: LossName, validation: Validation) -> None:
    config = configured(recipe(data))
    assert (config.shape.dim, config.epochs, config.loss, config.validation) == (
        dim,
        epochs,
        loss,
        validation,
    )
    assert 0.9 <= config.ema <= 0.999


def test_new_items_are_prepared_for_where_time_brings_them() -> None:
    by_time, last = (configured(recipe(split(200_000, from_ms=ms))).shape.id_dropout for ms in (1, 0))
    assert by_time > last == 0


def test_published_recipes_are_valid_and_train_a_fixed_number_of_epochs() -> None:
    for published in PUBLISHED.values():
        assert configured(published).validation is Validation.NONE
