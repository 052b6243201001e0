"""Everything that a training run of the two-tower depends on."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.types import EventType
from recsys.models.two_tower import TwoTowerShape
from training.choices import Augmentation
from training.two_tower.batches import Windows
from training.two_tower.losses import LossName


class Validation(StrEnum):
    NONE = "none"
    TIME = "time"  # the newest `validation_share` of all events, each predicted from what was before it
    LAST_ITEM = "last_item"  # each history's last event


class TwoTowerConfig(BaseModel):
    """Everything that a run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: Path = Field(description="Folder of sequence files.")
    items: Path = Field(description="The item table, items.parquet.")
    users: Path | None = Field(
        None, description="The user table, users.parquet, for a `shape` with `profile`."
    )
    work: Path = Field(description="Folder for the checkpoint and what is exported.")
    seed: int = Field(0, ge=0, description="Fixes the result, on the same hardware and threads bit for bit.")
    shape: TwoTowerShape = Field(TwoTowerShape(), description="Size of the model.")

    start: Path | None = Field(
        None, description="Work folder of an earlier two-tower to go on from; empty: random weights."
    )
    newer_than_ms: int = Field(0, ge=0, description="Predict only what happened after it; 0: everything.")

    loss: LossName = Field(LossName.FULL, description="What the next item is told apart from.")
    negatives: int = Field(1024, ge=0, description="Negatives a batch, of the sampled losses.")
    shard_items: bool = Field(
        False, description="Deal the rows of the id table out to the processes; needs a sampled loss."
    )
    logq: bool = Field(True, description="Correct sampled losses for how likely a negative was drawn.")
    popularity_adjustment: float = Field(
        0.0, ge=0, description="Of the full softmax: how far popularity is trained away; 1: wholly."
    )

    epochs: int = Field(10, ge=1, description="Passes over the data; the learning rate ends with the last.")
    max_length: int = Field(50, ge=2, description="Events that the user tower looks at.")
    batch_tokens: int = Field(2048, ge=1, description="Positions a batch, over all processes.")
    windows: Windows = Field(Windows.ALL, description="What is trained on of histories over `max_length`.")
    wanted: EventType | None = Field(
        None, description="Predict only items that got such an event at once; empty: every new item."
    )
    half_life_days: float = Field(
        0.0,
        ge=0,
        description="Train half as often on what is so much older than the newest; 0: on all alike.",
    )
    augmentation: Augmentation = Field(Augmentation.NONE, description="How inputs are varied.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak of AdamW's.")
    warmup_steps: int = Field(50, ge=0, description="Steps until the peak; then cosine to 2 %.")
    weight_decay: float = Field(0.01, ge=0, description="On all but the embeddings.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0: none.")
    device: str = Field("auto", description="cpu, cuda, or auto: a GPU if there is one.")
    bf16: bool = Field(False, description="Autocast to bfloat16: faster with AMX or a GPU, slower without.")

    validation: Validation = Field(Validation.TIME, description="What early stopping looks at.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Newest events held out, of `time`.")
    validation_from_ms: int = Field(
        0, ge=0, description="When `time` begins, in place of a share; 0: the share."
    )
    validation_cases: int = Field(1000, ge=1, description="Held-out events scored after each epoch.")
    patience: int = Field(2, ge=1, description="Epochs without a better NDCG@10 before stopping.")
    refit: bool = Field(True, description="Train again on everything for the best number of epochs.")

    threads: int = Field(0, ge=0, description="Threads of torch; 0: as torch chooses.")
    checkpoint_s: float = Field(60.0, ge=0, description="Seconds between checkpoints.")
    progress: bool = Field(True, description="Show a progress bar.")
