"""The release of a bundle as a state machine: events in, the next state out. Pure: no clock, no files.

    trained → gated → shadow → canary 1 % → 10 % → 50 % → promoted
        └────────┴───────┴─────────┴────────┴──────┴──→ rolled back

What users see follows from the state alone (`experiment_of`), so a controller that is killed and started again has
nothing to remember but the state. Each event says which stage it is about; one about another stage changes nothing,
which makes every decision idempotent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recsys.contracts.types import MS_PER_HOUR, MS_PER_SECOND
from recsys.experiments.assignment import Arm, Experiment

LAYER = "release"  # of the canary's experiment; no other experiment may use it
CANARY, CONTROL = "canary", "control"
LONGEST_VERSION = 43  # a canary's experiment is named after stage, version and time
# each tested in every canary stage: `recsys.experiments.guardrails`
GUARDRAILS = ("ctr", "cvr", "list_length", "head_share", "slow", "degraded")
OF_REQUESTS = frozenset({"slow", "degraded"})  # a stage that has not tested them is not passed


class Stage(StrEnum):
    TRAINED = "trained"
    GATED = "gated"
    SHADOW = "shadow"
    CANARY_1 = "canary-1"
    CANARY_10 = "canary-10"
    CANARY_50 = "canary-50"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"


PATH = tuple(stage for stage in Stage if stage is not Stage.ROLLED_BACK)
SHARES: Mapping[Stage, float] = {Stage.CANARY_1: 0.01, Stage.CANARY_10: 0.1, Stage.CANARY_50: 0.5}
ENDS = frozenset({Stage.PROMOTED, Stage.ROLLED_BACK})


@dataclass(frozen=True)
class Check:
    """One check of the offline gate, and why it failed."""

    name: str
    candidate: float | None
    serving: float | None
    problem: str = ""


@dataclass(frozen=True)
class Release:
    """The state. `settled`: the pointers CURRENT and SHADOW agree with it."""

    version: str
    serving: str  # answers until the promotion, and after a rollback
    stage: Stage
    since_ms: int  # when the stage began
    number: int = 0  # of stages before this one: the audit log has one line for each
    reason: str = ""  # why the stage began
    users: int = 0  # of the canary, in this stage
    p: Mapping[str, float] = field(default_factory=dict)  # guardrail → smallest p of this stage
    checks: tuple[Check, ...] = ()
    settled: bool = False

    @property
    def ended(self) -> bool:
        return self.stage in ENDS


class StagePlan(BaseModel):
    """How long a canary stage lasts: it ends with enough users after the shortest time, else after the longest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shortest_hours: float = Field(ge=0, description="Time that a stage lasts at least.")
    longest_hours: float = Field(gt=0, description="Time after which fewer users are enough.")
    users: int = Field(ge=1, description="Users of the canary that are enough after the shortest time.")

    @model_validator(mode="after")
    def _lasts(self) -> "StagePlan":
        if self.shortest_hours > self.longest_hours:
            raise ValueError("shortest_hours must not be above longest_hours")
        return self


class ReleasePlan(BaseModel):
    """The rules of a release. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error_budget: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Probability that a harmless bundle is rolled back by a guardrail in any of the stages.",
    )
    shadow_requests: int = Field(
        500, ge=1, description="Mirrored requests that are compared before users see the bundle."
    )
    least_users: int = Field(
        30, ge=2, description="Users of the canary below which no guardrail says anything."
    )
    gate_hours: float = Field(12.0, gt=0, description="Longest time of the offline gate; then rolled back.")
    shadow_hours: float = Field(24.0, gt=0, description="Longest time of the shadow; then rolled back.")
    silence_hours: float = Field(
        1.0, ge=0, description="Time without evidence, after a stage's longest time, that rolls back."
    )
    canary_1: StagePlan = StagePlan(shortest_hours=6, longest_hours=24, users=1_000)
    canary_10: StagePlan = StagePlan(shortest_hours=12, longest_hours=24, users=5_000)
    canary_50: StagePlan = StagePlan(shortest_hours=24, longest_hours=48, users=10_000)

    @property
    def level(self) -> float:
        """Of each guardrail in each stage: the error budget, split evenly (a union bound)."""
        return self.error_budget / (len(GUARDRAILS) * len(SHARES))

    def of(self, stage: Stage) -> StagePlan:
        """Of a canary stage."""
        return {
            Stage.CANARY_1: self.canary_1,
            Stage.CANARY_10: self.canary_10,
            Stage.CANARY_50: self.canary_50,
        }[stage]

    def longest_ms(self, stage: Stage) -> int:
        """After it, a stage has ended whatever happens."""
        if stage in SHARES:
            return int((self.of(stage).longest_hours + self.silence_hours) * MS_PER_HOUR)
        hours = {
            Stage.TRAINED: self.gate_hours,
            Stage.GATED: self.gate_hours,
            Stage.SHADOW: self.shadow_hours,
        }
        return int(hours[stage] * MS_PER_HOUR)


@dataclass(frozen=True)
class Tick:
    """Time passes; nothing is known."""

    at_ms: int


@dataclass(frozen=True)
class Gated:
    """The offline gate has judged."""

    at_ms: int
    checks: tuple[Check, ...]
    stage: Stage = Stage.TRAINED


@dataclass(frozen=True)
class Mirrored:
    """What the shadow has shown so far. `problems`: of `recsys.experiments.guardrails.shadow_problems`."""

    at_ms: int
    requests: int
    problems: tuple[str, ...]
    stage: Stage = Stage.SHADOW


@dataclass(frozen=True)
class Look:
    """What a canary has shown so far: its users, and each guardrail's always-valid p of harm."""

    at_ms: int
    stage: Stage
    users: int
    p: Mapping[str, float]


@dataclass(frozen=True)
class Promote:
    """A person's decision; the only event that skips stages, and never the offline gate."""

    at_ms: int
    by: str


@dataclass(frozen=True)
class Abort:
    at_ms: int
    reason: str


Event = Tick | Gated | Mirrored | Look | Promote | Abort


def exposure(stage: Stage) -> float:
    """Share of the users who see the candidate in a stage."""
    return 1.0 if stage is Stage.PROMOTED else SHARES.get(stage, 0.0)


def proposed(version: str, serving: str, at_ms: int) -> Release:
    """The first state of a release."""
    return Release(version, serving, Stage.TRAINED, at_ms, reason="proposed")


def decide(release: Release, event: Event, plan: ReleasePlan) -> Release:
    """The next state; the same one if nothing is to be done."""
    if release.ended:
        return release
    match event:
        case Abort():
            return rolled_back(release, event.at_ms, event.reason)
        case Promote():
            return _promoted_by_hand(release, event)
        case Tick():
            return _timed(release, event.at_ms, plan)
        case _ if event.stage is not release.stage:
            return release
        case Gated():
            return _gated(release, event)
        case Mirrored():
            return _mirrored(release, event, plan)
        case Look():
            return _looked(release, event, plan)


def experiment_of(release: Release | None) -> Experiment | None:
    """The experiment that shows the canary to the stage's share of the users; None: nobody sees it.

    All stages share the salt and the canary comes first, so a larger share keeps the users that it had. Each stage has
    a name of its own, in a second release of a version, too: its outcomes are those of users whose arm did not change
    within it.
    """
    if release is None or release.stage not in SHARES:
        return None
    share = SHARES[release.stage]
    began = datetime.fromtimestamp(release.since_ms / MS_PER_SECOND, UTC)
    return Experiment(
        name=f"{release.stage}.{release.version}.{began:%m%d%H%M%S}",
        layer=LAYER,
        salt=f"{LAYER}:{release.version}",
        arms=(
            Arm(name=CANARY, weight=share, bundle=release.version),
            Arm(name=CONTROL, weight=1 - share),
        ),
    )


def _timed(release: Release, at_ms: int, plan: ReleasePlan) -> Release:
    if at_ms - release.since_ms >= plan.longest_ms(release.stage):
        return rolled_back(release, at_ms, f"no evidence within the longest time of {release.stage}")
    if release.stage is Stage.GATED:
        return _next(release, at_ms, "the offline gate has passed")
    return release


def _gated(release: Release, event: Gated) -> Release:
    release = replace(release, checks=event.checks)
    problems = [f"{check.name}: {check.problem}" for check in event.checks if check.problem]
    if problems:
        return rolled_back(release, event.at_ms, "; ".join(problems))
    return _next(release, event.at_ms, f"{len(event.checks)} checks of the offline gate passed")


def _mirrored(release: Release, event: Mirrored, plan: ReleasePlan) -> Release:
    if event.requests < plan.shadow_requests:
        return _timed(release, event.at_ms, plan)
    if event.problems:
        return rolled_back(release, event.at_ms, "; ".join(event.problems))
    return _next(release, event.at_ms, f"{event.requests} mirrored requests without a problem")


def _looked(release: Release, event: Look, plan: ReleasePlan) -> Release:
    if event.users < plan.least_users:
        return _timed(release, event.at_ms, plan)
    p = {name: min(value, release.p.get(name, 1.0)) for name, value in event.p.items()}
    release = replace(release, users=event.users, p={**release.p, **p})
    harmed = [f"{name} (p {value:.2g})" for name, value in sorted(p.items()) if value <= plan.level]
    if harmed:
        return rolled_back(release, event.at_ms, f"harm: {', '.join(harmed)}, level {plan.level:.2g}")
    stage_plan, hours = plan.of(release.stage), (event.at_ms - release.since_ms) / MS_PER_HOUR
    enough = event.users >= stage_plan.users and hours >= stage_plan.shortest_hours
    if (enough or hours >= stage_plan.longest_hours) and release.p.keys() >= OF_REQUESTS:
        return _next(release, event.at_ms, f"no harm found in {event.users} users of {release.stage}")
    return _timed(release, event.at_ms, plan)


def _promoted_by_hand(release: Release, event: Promote) -> Release:
    if release.stage is Stage.TRAINED:
        return release
    return _entered(release, Stage.PROMOTED, event.at_ms, f"promoted by {event.by} from {release.stage}")


def _next(release: Release, at_ms: int, reason: str) -> Release:
    return _entered(release, PATH[PATH.index(release.stage) + 1], at_ms, reason)


def rolled_back(release: Release, at_ms: int, reason: str) -> Release:
    """The end of a release that users do not get."""
    return _entered(release, Stage.ROLLED_BACK, at_ms, reason)


def _entered(release: Release, stage: Stage, at_ms: int, reason: str) -> Release:
    return replace(
        release,
        stage=stage,
        since_ms=at_ms,
        number=release.number + 1,
        reason=reason,
        # what the last stage has shown stays readable at the end
        users=release.users if stage in ENDS else 0,
        p=release.p if stage in ENDS else {},
        settled=False,
    )
