"""DP-SGD by user (Abadi et al. 2016, McMahan et al. 2018): a model's weights hide whether any one user was there.

Each step samples users, adds up their clipped gradients with Gaussian noise, and moves the weights. Steps are as many
as planned: stopping at the best validation score would be another look at the users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from recsys.contracts.errors import InvalidConfig
from training.choices import PRIVATE_EPOCHS
from training.config import Config
from training.optim import warmup_cosine
from training.privacy.accounting import UNIT, Spend, check_delta, combined, epsilon_of, noise_for
from training.privacy.randomness import Randomness
from training.private.gradients import Learner, Sums
from training.private.selection import rounded, selected_rows


class PrivateLoop(Config):
    """How private, how long and how fast."""

    epsilon: float = Field(
        8.0, gt=0, le=100, description="Of this training, statistics of the inputs included."
    )
    delta: float = Field(1e-6, gt=0, lt=0.01, description="Below one over the number of users.")
    epochs: int = Field(PRIVATE_EPOCHS, ge=1, description="How often a user is sampled, on average.")
    users_per_step: int = Field(1024, ge=1, description="On average; larger hides better in the noise.")
    clip: float = Field(1.0, gt=0, description="Norm of a user's gradient, at most.")
    learning_rate: float = Field(4e-2, ge=0, description="Peak learning rate of Adam.")
    statistics_noise: float = Field(5.0, gt=0, description="Noise multiplier of the inputs' statistics.")
    selection_noise: float = Field(
        3.0, gt=0, description="Noise of the choice of table rows, as a multiple of the gradients'."
    )
    selection_threshold: float = Field(
        2.0, description="Standard deviations of that noise that a row must reach to be changed."
    )


@dataclass(frozen=True)
class Plan:
    """What a training does and costs.

    noise_multiplier: of the gradients alone; 0: none, for comparisons.
    """

    loop: PrivateLoop
    users: int
    noise_multiplier: float

    @property
    def sample_rate(self) -> float:
        return min(1.0, self.loop.users_per_step / self.users)

    @property
    def steps(self) -> int:
        return max(1, round(self.loop.epochs / self.sample_rate))

    @property
    def spends(self) -> list[Spend]:
        """The statistics, then the steps: a choice of rows and a gradient of the same sample in each."""
        both = combined(self.noise_multiplier, self.noise_multiplier * self.loop.selection_noise)
        return [Spend(self.loop.statistics_noise), Spend(both, self.sample_rate, self.steps)]

    def describe(self) -> dict[str, float | int | str]:
        """For the manifest."""
        return {
            "unit": UNIT,
            "epsilon": epsilon_of(self.spends, self.loop.delta),
            "delta": self.loop.delta,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
            "clip": self.loop.clip,
        }


def plan(loop: PrivateLoop, users: int) -> Plan:
    """The least noise that keeps `loop.epsilon`.

    Raises:
        InvalidConfig: delta is so large that it would allow giving a user away, or no noise is enough.
    """
    check_delta(loop.delta, users)
    noise = noise_for(loop.epsilon, loop.delta, lambda found: Plan(loop, users, found).spends)
    return Plan(loop, users, noise)


def fit_private(
    learner: Learner,
    planned: Plan,
    randomness: Randomness,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> float:
    """Train in place; the weights are the mean over the second half of the steps.

    Returns:
        share of the sampled users whose gradient was clipped; a fact of the data, so it is not published.

    Raises:
        InvalidConfig: the plan is of other users.
    """
    model, loop = learner.model, planned.loop
    if len(learner) != planned.users:
        raise InvalidConfig(f"a plan for {planned.users:,} users, but {len(learner):,} have data")
    model.train()
    optimizers = _optimizers(model, learner.tables, loop)
    average, clipped, sampled = AveragedModel(model), 0, 0
    for step in range(planned.steps):
        users = np.flatnonzero(randomness.uniform(len(learner)) < planned.sample_rate)
        sums = Sums.of(learner, users, loop.clip)
        _set_gradients(model, noisy(sums, planned, randomness), planned.sample_rate * len(learner))
        rate = loop.learning_rate * warmup_cosine(step, 0.05 * planned.steps, step / planned.steps)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        if 2 * (step + 1) > planned.steps:
            average.update_parameters(model)
        clipped, sampled = clipped + sums.clipped, sampled + sums.users
        report(step + 1, planned.steps)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return clipped / max(sampled, 1)


@dataclass(frozen=True)
class Noisy:
    """What leaves a step. dense: parameter → sum with noise. tables: table → changed rows and their sums with noise."""

    dense: Mapping[str, Tensor]
    tables: Mapping[str, tuple[Tensor, Tensor]]


def noisy(sums: Sums, planned: Plan, randomness: Randomness) -> Noisy:
    """Choose the table rows that change, and add noise to them and to the dense gradients."""
    loop, deviation = planned.loop, planned.noise_multiplier * planned.loop.clip
    chosen = selected_rows(
        sums.touched, planned.noise_multiplier * loop.selection_noise, loop.selection_threshold, randomness
    )

    def with_noise(total: Tensor) -> Tensor:
        return rounded(total, deviation, randomness) if deviation else total

    tables = {name: (rows, with_noise(sums.tables[name][rows])) for name, rows in chosen.items()}
    return Noisy({name: with_noise(total) for name, total in sums.dense.items()}, tables)


def _optimizers(model: nn.Module, names: Sequence[str], loop: PrivateLoop) -> list[torch.optim.Optimizer]:
    """A table's rows move only when they are chosen."""
    tables = {f"{name}.weight" for name in names}
    sparse = [p for name, p in model.named_parameters() if name in tables]
    dense = [p for name, p in model.named_parameters() if name not in tables]
    return [
        torch.optim.Adam(dense, lr=loop.learning_rate),
        torch.optim.SparseAdam(sparse, lr=loop.learning_rate),
    ]


def _set_gradients(model: nn.Module, found: Noisy, users: float) -> None:
    """Per user that a step samples on average, which is not the number that it did sample."""
    parameters = dict(model.named_parameters())
    for name, total in found.dense.items():
        parameters[name].grad = total / users
    for name, (rows, total) in found.tables.items():
        table = parameters[f"{name}.weight"]
        table.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), total / users, table.shape, check_invariants=False
        )
