"""Configuration of federated training."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from training.choices import FEDERATED_ROUNDS
from training.config import Config
from training.federated.quantize import MOST_CLIENTS
from training.federated.tower import PooledShape


class Cohorts(Config):
    """Who takes part in a round, and what each computes."""

    rate: float = Field(0.16, gt=0, le=1, description="Chance of each client to take part in a round.")
    group: int = Field(
        32,
        ge=2,
        le=MOST_CLIENTS // 2,
        description="Clients of a group, at least; the server gets sums of over two thirds of a group.",
    )
    length: int = Field(50, ge=2, description="Consecutive events that a client draws for a round.")
    targets: int = Field(16, ge=1, description="Of them, predicted events.")
    negatives: int = Field(
        128, ge=0, description="Items that those compete with, drawn by each client; 0: all."
    )


class Defence(Config):
    """Which groups' sums count."""

    longest: float = Field(
        1.0, gt=0, description="Leave out a sum longer than this many `clip` times the root of its clients."
    )
    attackers: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="Share of the clients that may attack, as a first guess: spoilt groups show who, and suspects are"
        " kept apart. 0: groups stay random.",
    )


class FederatedRecipe(Config):
    """How the rounds run, for any clients."""

    seed: int = Field(0, ge=0, description="Of the first model, the subspaces and the simulated clients.")
    shape: PooledShape = Field(PooledShape(), description="How a device computes its user's vector.")
    cohorts: Cohorts = Field(Cohorts(), description="Who takes part in a round.")

    rounds: int = Field(FEDERATED_ROUNDS, ge=1, description="Rounds of training.")
    rank: int = Field(2, ge=1, description="Directions of a round's update, of `shape.dim`; divides it.")
    clip: float = Field(1.0, gt=0, description="Longest update of a client; longer ones are shortened.")
    learning_rate: float = Field(0.07, gt=0, description="Peak of the server's step.")
    warmup: float = Field(
        1 / 32, ge=0, lt=1, description="Share of the rounds with a linear warm-up; then cosine to 2 %."
    )
    masked: bool = Field(
        False, description="Run the secure sums' protocol in the simulation, too: the same sums, much slower."
    )
    dropouts: float = Field(0.0, ge=0, lt=1, description="Chance that a client's update never arrives.")
    defence: Defence | None = Field(Defence(), description="Leave out suspect groups; empty: none.")
    noise: float = Field(
        0.0, ge=0, description="Gaussian noise on the sum of a round, in units of its bound; 0: none."
    )

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        if self.shape.dim % self.rank:
            raise ValueError(f"rank: {self.rank} does not divide shape.dim {self.shape.dim}")
        if self.noise and self.defence is not None:
            raise ValueError(
                "noise: which groups the defence leaves out depends on single clients, and no noise hides that;"
                " set defence=null"
            )
        if self.noise and self.dropouts:
            raise ValueError(
                "noise: whether a group is abandoned depends on single clients, too; set dropouts=0"
            )
        return self


class FederatedConfig(FederatedRecipe):
    """Everything that a run depends on."""

    sequences: Path = Field(description="Folder of sequence files: one history per client.")
    items: Path = Field(description="The item table, items.parquet.")
    work: Path = Field(description="Folder of the checkpoint.")
    checkpoint_s: float = Field(30.0, ge=0, description="Seconds between checkpoints.")
