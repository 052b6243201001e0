"""Defaults of the two-tower's training by the size of the data. `recsys train` starts from them; every one can be set.

A pure function of three counts. docs/recall.md says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from training.choices import LINEAR_RANKS, linear_rank
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.losses import LossName

FULL_SOFTMAX_ITEMS = 100_000  # the full softmax recommends better; its step grows with the catalogue
NEGATIVES = 4_096
ENOUGH_CASES = 500  # below it the noise of the held-out events decides when to stop, and training misses them
BATCHES = 6  # per epoch at least: with fewer, a small log's weights are hardly updated; with many more, they overfit
BATCH_TOKENS = (512, 2_048)
EPOCHS = 20
SPARSE_EVENTS = 20  # events per user; below, an epoch has few targets for each user
SPARSE_EPOCHS = 40
PATIENCE, SPARSE_PATIENCE = 2, 3


@dataclass(frozen=True)
class DataSize:
    """events: of all users together."""

    items: int
    users: int
    events: int


@dataclass(frozen=True)
class Recipe:
    """Fields of `TwoTowerConfig` that differ from its defaults or were decided; `reasons` has a line for each."""

    values: Mapping[str, object]
    reasons: Mapping[str, str]


def recipe(size: DataSize) -> Recipe:
    """The defaults for data of this size."""
    chosen = {**_loss(size), **_linear(size), **_batch(size), **_schedule(size)}
    return Recipe(
        {name: value for name, (value, _) in chosen.items()}, {name: why for name, (_, why) in chosen.items()}
    )


def size_of(sequences: Path, items: Path) -> DataSize:
    """From the files' metadata alone; an empty history counts as one event.

    Raises:
        InvalidData: there are no features, or no item table.
    """
    try:
        n_items = pq.read_metadata(items).num_rows
        files = [pq.read_metadata(path) for path in sorted(sequences.glob("[!._]*.parquet"))]
        groups = [file.row_group(g) for file in files for g in range(file.num_row_groups)]
        columns = [group.column(c) for group in groups for c in range(group.num_columns)]
    except (OSError, pa.ArrowException) as error:
        raise InvalidData(f"{error}; run `recsys data import` and `recsys features build`") from error
    if not files:
        raise InvalidData(f"{sequences}: no sequence files; build them with `recsys features build`")
    events = sum(c.num_values for c in columns if c.path_in_schema.partition(".")[0] == "items")
    return DataSize(n_items, sum(file.num_rows for file in files), events)


Chosen = dict[str, tuple[object, str]]  # field → its value, and why


def _loss(size: DataSize) -> Chosen:
    if size.items <= FULL_SOFTMAX_ITEMS:
        return {"loss": (LossName.FULL, f"{size.items:,} items are at most {FULL_SOFTMAX_ITEMS:,}")}
    why = f"{size.items:,} items are more than {FULL_SOFTMAX_ITEMS:,}"
    return {
        "loss": (LossName.MIXED, why),
        "negatives": (NEGATIVES, "with fewer the lists are worse; shared by the batch"),
    }


def _linear(size: DataSize) -> Chosen:
    rank = linear_rank(size.items)
    most = next((items for items in LINEAR_RANKS if size.items <= items), None)
    why = f"at most {most:,}" if most else f"more than {max(LINEAR_RANKS):,}"
    return {"linear_rank": (rank, f"{size.items:,} items are {why}")}


def _batch(size: DataSize) -> Chosen:
    """The largest power of two that leaves `BATCHES` per epoch, within limits."""
    least, most = BATCH_TOKENS
    wanted = 1 << max(size.events // BATCHES, 1).bit_length() - 1
    tokens = min(max(wanted, least), most)
    return {
        "batch_tokens": (
            tokens,
            f"{size.events:,} events; {BATCHES} batches per epoch or more, if 512 allows it",
        )
    }


def _schedule(size: DataSize) -> Chosen:
    share = TwoTowerConfig.model_fields["validation_share"].default
    by_time = int(size.events * share)
    if by_time >= ENOUGH_CASES:
        validation, cases = Validation.TIME, by_time
    elif size.users >= ENOUGH_CASES:
        validation, cases = Validation.LAST_ITEM, size.users
    else:
        why = f"too few events to hold out {ENOUGH_CASES}"
        return {"validation": (Validation.NONE, why), "epochs": (EPOCHS, "fixed: nothing is held out")}
    per_user = size.events / max(size.users, 1)
    sparse = per_user < SPARSE_EVENTS
    why = f"{per_user:.0f} events per user; early stopping decides"
    return {
        "validation": (
            validation,
            f"up to {cases:,} held-out events, of which `validation_cases` are scored",
        ),
        "epochs": (SPARSE_EPOCHS if sparse else EPOCHS, why),
        "patience": (SPARSE_PATIENCE if sparse else PATIENCE, why),
    }
