"""The recipe follows from the data's size, and every one is a valid configuration."""

from pathlib import Path

import pytest

from recsys.contracts.types import Item
from recsys.models.two_tower import TwoTowerShape
from tests.training.evaluation.histories import history
from training.evaluation.protocols import Split
from training.evaluation.recipes import PUBLISHED, Recipe, recipe
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.recipe import DataSize
from training.two_tower.recipe import recipe as by_size
from training.two_tower.retrieval import Cases

NONE = Cases([], [], [])


def split(events: int, items: int = 10, validation_cases: int = 1_000, from_ms: int = 0) -> Split:
    users = [history("u", *[1] * events)]
    cases = Cases([history("v")] * validation_cases, [], [])
    return Split([Item("i")] * items, users, cases, users, NONE, from_ms)


def configured(found: Recipe) -> TwoTowerConfig:
    nowhere = {"sequences": Path("s"), "items": Path("i"), "work": Path("w")}
    return TwoTowerConfig.model_validate({**nowhere, "shape": found.shape, **found.training})


def test_what_is_evaluated_is_what_is_trained() -> None:
    """Except for which cases stop it early: the split's own."""
    for events, items, users in ((80_000, 10, 1), (1_000_000, 10, 1), (200_000, 100_001, 1)):
        ours = configured(recipe(split(events, items)))
        trained = by_size(DataSize(items, users, events)).values
        for name in trained.keys() - {"validation"}:
            assert getattr(ours, name) == trained[name], name
        assert ours.shape == TwoTowerShape()


@pytest.mark.parametrize(
    ("data", "validation", "epochs"),
    [
        (split(80_000), Validation.LAST_ITEM, 20),
        (split(80_000, from_ms=1), Validation.TIME, 20),
        (split(80_000, validation_cases=499), Validation.NONE, 20),
        (split(0, validation_cases=0), Validation.NONE, 20),
    ],
)
def test_the_splits_own_cases_stop_it_if_they_are_enough(
    data: Split, validation: Validation, epochs: int
) -> None:
    config = configured(recipe(data))
    assert (config.validation, config.epochs) == (validation, epochs)


def test_published_recipes_are_valid_and_train_a_fixed_number_of_epochs() -> None:
    for published in PUBLISHED.values():
        assert configured(published).validation is Validation.NONE
