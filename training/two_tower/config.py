"""Configuration of the two-tower's training."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from recsys.contracts.types import EventType
from recsys.models.two_tower import TwoTowerShape
from training.choices import Augmentation
from training.config import Config
from training.two_tower.batches import Windows
from training.two_tower.losses import LossName


class Validation(StrEnum):
    NONE = "none"
    TIME = "time"  # the newest `validation_share` of all events, each predicted from those before it
    LAST_ITEM = "last_item"  # the last item that each user took


class TwoTowerConfig(Config):
    """Everything that a run depends on."""

    sequences: Path = Field(description="Folder of sequence files.")
    items: Path = Field(description="The item table, items.parquet.")
    users: Path | None = Field(
        None, description="The user table, users.parquet, for a `shape` with `profile`."
    )
    work: Path = Field(description="Folder of the checkpoints.")
    seed: int = Field(
        0, ge=0, description="The same seed, hardware and threads give the same weights, bit for bit."
    )
    shape: TwoTowerShape = Field(TwoTowerShape(), description="Size of the model.")

    start: Path | None = Field(
        None, description="Work folder of an earlier two-tower to warm-start from; empty: random weights."
    )
    newer_than_ms: int = Field(0, ge=0, description="Predict only events after this time; 0: all events.")

    loss: LossName = Field(LossName.FULL, description="What the next item competes with.")
    negatives: int = Field(1024, ge=0, description="Negatives per batch, of the sampled losses.")
    shard_items: bool = Field(
        False, description="Shard the rows of the id table over the processes; needs a sampled loss."
    )
    logq: bool = Field(True, description="Correct sampled losses for how likely a negative was drawn.")
    popularity_adjustment: float = Field(
        0.0,
        ge=0,
        description="Logit adjustment of the full softmax: 1 removes popularity from the scores, 0 keeps it.",
    )

    linear_rank: int = Field(
        0,
        ge=0,
        multiple_of=2,
        description="Values of the linear part's vectors, which are added to the model's; 0: no linear part.",
    )
    linear_items: int = Field(
        20_000, ge=1, le=30_000, description="The most popular items, which alone have a linear part."
    )
    linear_regularisation: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="λ of the linear part, EASE; empty: chosen with the weight up to 10,000 items, else 200.",
    )
    linear_weight: float | None = Field(
        None,
        ge=0,
        le=1e3,
        description="How much the linear part's scores count; empty: chosen on held-out events, 0 without them.",
    )

    epochs: int = Field(
        10, ge=1, description="Passes over the data; the learning-rate schedule ends with the last."
    )
    max_length: int = Field(50, ge=2, description="Newest events of a history that the user tower reads.")
    batch_tokens: int = Field(2048, ge=1, description="Positions per batch, over all processes.")
    windows: Windows = Field(
        Windows.ALL, description="What to train on of histories longer than `max_length`."
    )
    wanted: EventType | None = Field(
        None, description="Predict only items that got an event of this type at once; empty: every new item."
    )
    repeats: dict[EventType, float] | None = Field(
        None,
        description="Seen items that may return: type of event → days since the latest visit; they are targets, too."
        " Empty: as the log shows.",
    )
    half_life_days: float = Field(
        0.0,
        ge=0,
        description="Train half as often on events this much older than the newest; 0: on all equally.",
    )
    augmentation: Augmentation = Field(Augmentation.NONE, description="How inputs are varied.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(50, ge=0, description="Linear warm-up; then cosine to 2 %.")
    weight_decay: float = Field(0.01, ge=0, description="On matrices other than embeddings.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the weights' moving average, which is exported; 0: no average."
    )
    device: str = Field("auto", description="cpu, cuda, or auto: a GPU if there is one.")
    bf16: bool = Field(False, description="Autocast to bfloat16: faster with AMX or a GPU, slower without.")

    validation: Validation = Field(Validation.TIME, description="Which events early stopping is decided on.")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the newest events held out by `time`."
    )
    validation_from_ms: int = Field(
        0, ge=0, description="Start of the held-out time, in place of a share; 0: use the share."
    )
    validation_cases: int = Field(1000, ge=1, description="Held-out events scored after each epoch.")
    patience: int = Field(2, ge=1, description="Stop after this many epochs without a better NDCG@10.")
    refit: bool = Field(True, description="Then train on everything for the best number of epochs.")

    threads: int = Field(0, ge=0, description="Threads of torch; 0: its own choice.")
    checkpoint_s: float = Field(60.0, ge=0, description="Seconds between checkpoints.")
