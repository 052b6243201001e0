"""The defaults by size: known answers, and nothing turns back as the data grow."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.losses import LossName
from training.two_tower.recipe import DataSize, recipe, size_of
from training.two_tower.sequences import History, write_sequences

COUNT = st.integers(0, 10**9)


def configured(size: DataSize) -> TwoTowerConfig:
    folder = Path("x")
    return TwoTowerConfig.model_validate(
        {"sequences": folder, "items": folder, "work": folder, **recipe(size).values}
    )


@pytest.mark.parametrize(
    ("size", "loss", "batch", "validation", "epochs", "patience"),
    [
        (DataSize(1_682, 943, 100_000), LossName.FULL, 2_048, Validation.TIME, 20, 2),  # MovieLens-100K
        (DataSize(3_416, 6_040, 1_000_000), LossName.FULL, 2_048, Validation.TIME, 20, 2),  # MovieLens-1M
        (DataSize(12_101, 22_363, 198_502), LossName.FULL, 2_048, Validation.TIME, 40, 3),  # Amazon Beauty
        (DataSize(300_000, 10**6, 2 * 10**7), LossName.MIXED, 2_048, Validation.TIME, 20, 2),
        (DataSize(200, 100, 3_000), LossName.FULL, 512, Validation.NONE, 20, 2),
        (DataSize(200, 900, 3_000), LossName.FULL, 512, Validation.LAST_ITEM, 40, 3),
        (DataSize(0, 0, 0), LossName.FULL, 512, Validation.NONE, 20, 2),
    ],
)
def test_known_sizes(
    size: DataSize, loss: LossName, batch: int, validation: Validation, epochs: int, patience: int
) -> None:
    config = configured(size)
    assert (config.loss, config.batch_tokens, config.validation) == (loss, batch, validation)
    assert (config.epochs, config.patience) == (epochs, patience)


def test_the_limits_are_where_they_are_said_to_be() -> None:
    assert configured(DataSize(100_000, 1, 1)).loss is LossName.FULL
    assert configured(DataSize(100_001, 1, 1)).loss is not LossName.FULL
    assert configured(DataSize(1, 1, 4_999)).validation is Validation.NONE
    assert configured(DataSize(1, 1, 5_000)).validation is Validation.TIME


def test_a_linear_part_up_to_a_size() -> None:
    ranks = [configured(DataSize(n, 1, 1)).linear_rank for n in (0, 10_000, 10_001, 50_000, 50_001)]
    assert ranks == [128, 128, 64, 64, 0]


@given(COUNT, COUNT, COUNT)
def test_every_choice_is_valid_and_has_a_reason(items: int, users: int, events: int) -> None:
    size = DataSize(items, users, events)
    config, chosen = configured(size), recipe(size)
    assert chosen.values.keys() == chosen.reasons.keys()
    assert all(chosen.reasons.values())
    tokens = config.batch_tokens
    assert tokens & (tokens - 1) == 0
    assert tokens == 512 or events // tokens >= 6


@given(COUNT, COUNT, COUNT, COUNT, COUNT)
def test_more_data_never_means_less(items: int, users: int, events: int, more: int, others: int) -> None:
    """Larger batches, held-out events and sampled losses stay, once the data are large enough for them."""
    small, large = (
        configured(DataSize(items, users, events)),
        configured(DataSize(items + others, users, events + more)),
    )
    assert small.batch_tokens <= large.batch_tokens
    assert (small.loss is not LossName.FULL) <= (large.loss is not LossName.FULL)
    assert (small.validation is not Validation.NONE) <= (large.validation is not Validation.NONE)


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    items = [Item(str(i)) for i in range(7)]
    histories = [History(f"u{n}", *(np.arange(1, n + 1) for _ in range(3))) for n in (1, 5, 3)]
    for name, part in (("a", histories[:2]), ("b", histories[2:])):
        write_sequences(tmp_path / "sequences" / f"{name}.parquet", part, items, row_group=1)
    write_parquet(tmp_path / "items.parquet", items_table(items))
    assert size_of(tmp_path / "sequences", tmp_path / "items.parquet") == DataSize(7, 3, 9)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"items\.parquet.*recsys data import"):
        size_of(tmp_path, tmp_path / "items.parquet")
    write_parquet(tmp_path / "items.parquet", items_table([Item("a")]))
    with pytest.raises(InvalidData, match="recsys features build"):
        size_of(tmp_path / "sequences", tmp_path / "items.parquet")
