"""The release's state machine: every path ends, none skips a stage, and a kill at any step changes nothing."""

from dataclasses import asdict, dataclass, replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.types import MS_PER_HOUR
from recsys.experiments.assignment import Assigner
from recsys.experiments.release import (
    CANARY,
    GUARDRAILS,
    LONGEST_VERSION,
    PATH,
    SHARES,
    Abort,
    Check,
    Event,
    Gated,
    Look,
    Mirrored,
    Promote,
    Release,
    ReleasePlan,
    Stage,
    Tick,
    decide,
    experiment_of,
    proposed,
)

PLAN = ReleasePlan()
START = 1_750_000_000_000
FINE = dict.fromkeys(GUARDRAILS, 0.5)
PASSED = (Check("click_auc", 0.001, 0.0),)


@dataclass(frozen=True)
class Draw:
    """What happens next, whatever the stage is then."""

    hours: int
    kind: str
    users: int
    p: float
    passes: bool

    def event(self, release: Release, at_ms: int) -> Event:
        match self.kind:
            case "tick":
                return Tick(at_ms)
            case "promote":
                return Promote(at_ms, "ann")
            case "abort":
                return Abort(at_ms, "by ann")
            case "another stage":
                return Look(at_ms, Stage.CANARY_10, self.users, {"ctr": self.p})
        if release.stage in SHARES:
            return Look(at_ms, release.stage, self.users, FINE | {"ctr": self.p})
        if release.stage is Stage.SHADOW:
            return Mirrored(at_ms, self.users, () if self.passes else ("slow",))
        return Gated(at_ms, PASSED if self.passes else (Check("rows", 1, 9, "few"),))


def draws(*by_hand: str) -> st.SearchStrategy[list[Draw]]:
    """Mostly evidence for the stage that the release is in, so that many paths are long."""
    kinds = ["evidence"] * 8 + ["tick", "another stage", *by_hand]
    draw = st.builds(
        Draw,
        st.sampled_from([0, 1, 7, 13, 25, 50]),
        st.sampled_from(kinds),
        st.sampled_from([0, 29, 30, 1_000, 20_000]),
        st.sampled_from([1.0, 0.5, 0.01, 0.01, 0.001]),
        st.sampled_from([True] * 5 + [False]),
    )
    return st.lists(draw, max_size=20)


Steps = list[tuple[Release, Event, Release]]


def played(given_: list[Draw]) -> Steps:
    """Each step: the state before, the event, the state after."""
    release, now_ms, steps = start(), START, []
    for draw in given_:
        now_ms += draw.hours * MS_PER_HOUR
        event = draw.event(release, now_ms)
        after = decide(release, event, PLAN)
        steps.append((release, event, after))
        release = after
    return steps


def start() -> Release:
    return proposed("new", "old", START)


def at(hours: float) -> int:
    return START + int(hours * MS_PER_HOUR)


def reloaded(release: Release) -> Release:
    """As a controller reads it after a kill."""
    return msgspec.convert(msgspec.json.decode(msgspec.json.encode(asdict(release))), Release)


@given(draws())
def test_no_evidence_skips_a_stage(given_: list[Draw]) -> None:
    for before, _, after in played(given_):
        if before.ended:
            assert after == before, "an ended release stays as it is"
        elif after.stage not in (before.stage, Stage.ROLLED_BACK):
            assert PATH.index(after.stage) == PATH.index(before.stage) + 1
        assert after.number == before.number + (after.stage is not before.stage)


@given(draws("promote", "abort"))
def test_a_decision_is_idempotent_and_survives_a_kill_at_each_step(given_: list[Draw]) -> None:
    killed = start()
    for _, event, after in played(given_):
        assert decide(after, event, PLAN) == after
        killed = reloaded(decide(reloaded(killed), event, PLAN))
        assert killed == after


@given(draws("promote", "abort"))
def test_every_path_ends_within_the_longest_times(given_: list[Draw]) -> None:
    steps = played(given_)
    release = steps[-1][2] if steps else start()
    now_ms = steps[-1][1].at_ms if steps else START
    for _ in PATH:
        now_ms += max(PLAN.longest_ms(stage) for stage in PATH[:-1])
        release = decide(release, Tick(now_ms), PLAN)
    assert release.ended


@given(draws("promote", "abort"))
def test_nobody_is_promoted_without_the_gate_and_nobody_is_after_harm(given_: list[Draw]) -> None:
    steps = played(given_)
    if steps and steps[-1][2].stage is Stage.PROMOTED:
        assert any(isinstance(event, Gated) and event.checks == PASSED for _, event, _ in steps)
    for before, event, after in steps:
        if isinstance(event, Look) and event.stage is before.stage and event.users >= PLAN.least_users:
            assert (after.stage is Stage.ROLLED_BACK) == (event.p["ctr"] <= PLAN.level)


@settings(max_examples=30)
@given(st.sampled_from(sorted(Stage)), st.text("0123456789-", min_size=1, max_size=20).map("v{}".format))
def test_exposure_is_the_stages_share_and_nobody_leaves_it_as_it_grows(stage: Stage, version: str) -> None:
    release = replace(proposed(version, "old", START), stage=stage)
    experiment = experiment_of(release)
    if stage not in SHARES:
        assert experiment is None
        return
    assert experiment is not None
    share = next(arm.weight for arm in experiment.arms if arm.name == CANARY) / sum(
        arm.weight for arm in experiment.arms
    )
    assert abs(share - SHARES[stage]) < 1e-9
    users = [f"u{n}" for n in range(2_000)]
    exposed = {user for user in users if Assigner([experiment]).assign(user)[0].arm.name == CANARY}
    assert abs(len(exposed) - share * len(users)) < 5 * (share * (1 - share) * len(users)) ** 0.5
    wider = experiment_of(replace(release, stage=Stage.CANARY_50))
    assert wider is not None
    assert all(Assigner([wider]).assign(user)[0].arm.name == CANARY for user in exposed)


def test_a_second_release_of_a_version_has_outcomes_of_its_own() -> None:
    longest = replace(proposed("v" * LONGEST_VERSION, "old", START), stage=Stage.CANARY_50)
    first, second = (
        experiment_of(replace(longest, since_ms=START + hours * MS_PER_HOUR)) for hours in (0, 1)
    )
    assert first is not None
    assert second is not None
    assert first.name != second.name
    assert (first.salt, first.arms) == (second.salt, second.arms), "the same users see it"


def test_a_release_without_harm_takes_every_stage() -> None:
    release, found = start(), [Stage.TRAINED]
    for event in (
        Gated(at(0), PASSED),
        Tick(at(0)),
        Mirrored(at(1), 500, ()),
        Look(at(7), Stage.CANARY_1, 1_000, FINE),
        Look(at(19), Stage.CANARY_10, 5_000, FINE),
        Look(at(43), Stage.CANARY_50, 10_000, FINE),
    ):
        release = decide(release, event, PLAN)
        found.append(release.stage)
    assert tuple(found) == PATH


def test_harm_rolls_back_before_the_shortest_time_and_says_which_guardrail() -> None:
    canary = replace(start(), stage=Stage.CANARY_1)
    found = decide(canary, Look(at(0), Stage.CANARY_1, 40, {"ctr": PLAN.level, "slow": 1.0}), PLAN)
    assert found.stage is Stage.ROLLED_BACK
    assert "ctr" in found.reason
    assert "slow" not in found.reason
    kept = decide(canary, Look(at(0), Stage.CANARY_1, 40, {"ctr": 1.01 * PLAN.level}), PLAN)
    assert kept.stage is Stage.CANARY_1
    few = decide(canary, Look(at(0), Stage.CANARY_1, PLAN.least_users - 1, {"ctr": 0.0}), PLAN)
    assert few == canary, "too few users say nothing"


def test_a_small_shop_takes_each_stage_in_its_longest_time_and_silence_rolls_back() -> None:
    canary = replace(start(), stage=Stage.CANARY_1)
    assert decide(canary, Look(at(23), Stage.CANARY_1, 40, FINE), PLAN).stage is Stage.CANARY_1
    assert decide(canary, Look(at(24), Stage.CANARY_1, 40, FINE), PLAN).stage is Stage.CANARY_10
    assert decide(canary, Tick(at(24)), PLAN) == canary
    assert decide(canary, Tick(at(25)), PLAN).stage is Stage.ROLLED_BACK


def test_a_stage_whose_requests_were_never_counted_is_not_passed() -> None:
    canary, of_users = replace(start(), stage=Stage.CANARY_1), {"ctr": 0.5, "cvr": 0.5}
    waits = decide(canary, Look(at(24), Stage.CANARY_1, 2_000, of_users), PLAN)
    assert waits.stage is Stage.CANARY_1
    assert decide(waits, Look(at(24), Stage.CANARY_1, 2_000, FINE), PLAN).stage is Stage.CANARY_10
    late = decide(waits, Look(at(25), Stage.CANARY_1, 2_000, of_users), PLAN)
    assert late.stage is Stage.ROLLED_BACK
    counted = decide(canary, Look(at(5), Stage.CANARY_1, 900, FINE), PLAN)
    assert decide(counted, Look(at(6), Stage.CANARY_1, 1_000, of_users), PLAN).stage is Stage.CANARY_10


def test_a_person_promotes_after_the_gate_alone() -> None:
    assert decide(start(), Promote(at(0), "ann"), PLAN) == start()
    shadow = replace(start(), stage=Stage.SHADOW)
    found = decide(shadow, Promote(at(0), "ann"), PLAN)
    assert found.stage is Stage.PROMOTED
    assert found.reason == "promoted by ann from shadow"


def test_the_error_budget_is_split_over_guardrails_and_stages() -> None:
    assert PLAN.level * len(GUARDRAILS) * len(SHARES) == PLAN.error_budget
