"""What a training of the two-tower gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.contracts.types import Item
from recsys.models.two_tower import TwoTower
from recsys.recall.item_vectors import LinearPart
from recsys.recall.repeat_consumption import RepeatPolicy
from training.two_tower.config import TwoTowerConfig
from training.two_tower.linear import linear_scorer, sum_of
from training.two_tower.retrieval import Scorer, two_tower_scorer
from training.two_tower.sequences import Profiles


@dataclass(frozen=True)
class EpochReport:
    """One epoch. `loss`: mean cross-entropy per target; `validation`: empty without held-out events.

    targets_per_s: of the model's steps; loader_targets_per_s: what the loader's thread can make, by its processor
    time; waited_s: how long the model waited for it.
    """

    epoch: int
    loss: float
    seconds: float
    targets_per_s: float
    loader_targets_per_s: float
    waited_s: float
    validation: dict[str, float]


@dataclass(frozen=True)
class TwoTowerResult:
    """The trained model in evaluation mode, its item table, and how it was trained."""

    model: TwoTower
    items: Sequence[Item]
    config: TwoTowerConfig
    epochs: Sequence[EpochReport]  # of the last phase
    profiles: Profiles
    # `METRICS` of the best epoch before the refit; NaN where nothing could be held out; empty without validation
    validation: dict[str, float]
    newest_ms: int  # time of the newest event that was trained on
    repeats: RepeatPolicy  # as configured, or as the log shows
    linear: LinearPart | None  # with its weight, `config.linear_weight`

    def scorer(self) -> Scorer:
        """As it is served: the model's scores, and those of the linear part."""
        tower = two_tower_scorer(self.model, self.config.max_length, self.profiles)
        if self.linear is None:
            return tower
        return sum_of(tower, linear_scorer(self.linear, self.config.max_length))
