"""Assign users to arms: sticky, salted, layered.

A user's bucket in a layer is a hash: nothing is stored, and all processes agree. Experiments of one layer share
its buckets and never meet the same user; layers have different salts, so they are independent (Tang et al. 2010,
"Overlapping Experiment Infrastructure"). The arm comes from a second hash, salted by the experiment: changing
an experiment's share of the traffic moves nobody between arms.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recsys.contracts.impressions import Exposure

# Names are logged as `experiment:arm@propensity`, several of them joined by "|".
Name = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$")]


class Arm(BaseModel):
    """One variant of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    weight: float = Field(
        1.0, gt=0, description="Share of the experiment's users, relative to the other arms."
    )
    bundle: str = Field("", description="Version that answers; empty: the published one.")
    settings: Mapping[str, Any] = Field(
        default_factory=dict, description="What the variant changes, by name."
    )


class Experiment(BaseModel):
    """Arms for the users of one layer whose bucket is in [first, last)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    layer: Name = "default"
    salt: str = Field("", description="Another salt reshuffles the users; empty: the name.")
    first: float = Field(0.0, ge=0, le=1)
    last: float = Field(1.0, ge=0, le=1)
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.first >= self.last:
            raise ValueError(f"experiment {self.name!r}: first must be below last")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"experiment {self.name!r}: arms need different names")
        return self


@dataclass(frozen=True, slots=True)
class Assignment:
    """One user's arm and the probability with which the experiment chose it."""

    experiment: str
    arm: Arm
    propensity: float

    @property
    def exposure(self) -> Exposure:
        """What the impression log says of it."""
        return Exposure(self.arm.name, self.propensity)


class Assigner:
    """The running experiments. Immutable.

    Raises:
        ValueError: two experiments of one layer claim the same buckets, or share a name.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self.experiments = tuple(experiments)
        names = [e.name for e in self.experiments]
        if len(set(names)) < len(names):
            raise ValueError("experiments need different names")
        ordered = sorted(self.experiments, key=lambda e: (e.layer, e.first))
        for one, other in itertools.pairwise(ordered):
            if one.layer == other.layer and one.last > other.first:
                raise ValueError(f"{one.name!r} and {other.name!r} overlap in layer {one.layer!r}")

    def assign(self, user_id: str) -> list[Assignment]:
        """At most one assignment per layer, in the order of the experiments."""
        return [
            _choose(experiment, user_id)
            for experiment in self.experiments
            if experiment.first <= bucket(f"layer:{experiment.layer}", user_id) < experiment.last
        ]


def bucket(salt: str, user_id: str) -> float:
    """Uniform in [0, 1), a function of the salt and the user."""
    digest = hashlib.blake2b(f"{salt}\x1f{user_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _choose(experiment: Experiment, user_id: str) -> Assignment:
    total = sum(arm.weight for arm in experiment.arms)
    remaining = bucket(f"arm:{experiment.salt or experiment.name}", user_id) * total
    for arm in experiment.arms:
        remaining -= arm.weight
        if remaining < 0:
            break
    return Assignment(experiment.name, arm, arm.weight / total)
