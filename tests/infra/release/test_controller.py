"""The release controller on real files: pointers follow the state, also after a kill at any change of a file."""

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

from infra.evaluation.fault_injection.release.kills import Given, kill_everywhere
from infra.release.controller import Controller, change, offer
from recsys.bundle import current_version, publish
from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_HOUR
from recsys.experiments.release import (
    Abort,
    Check,
    Look,
    Mirrored,
    Promote,
    Release,
    ReleasePlan,
    Stage,
    decide,
)
from recsys.experiments.release_file import history, propose, waiting
from serving.engine.shadow import FILE as SHADOW
from tests.bundles import write_tiny_bundle

PLAN = ReleasePlan()


@dataclass
class Rig:
    bundles: Path
    now_ms: int = 1_750_000_000_000
    evidence: Given = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = Given(lambda: self.now_ms)

    @property
    def controller(self) -> Controller:
        """A new one, as after a restart."""
        return Controller(self.bundles, self.evidence, PLAN, lambda: self.now_ms)

    def step(self, hours: float = 25) -> Release:
        release = self.controller.step()
        assert release is not None
        self.now_ms += int(hours * MS_PER_HOUR)
        return release

    def steps_to(self, stage: Stage) -> None:
        for _ in range(50):
            if self.step(7).stage is stage:
                return
        raise AssertionError(f"never {stage}")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    write_tiny_bundle(tmp_path, "old")
    write_tiny_bundle(tmp_path, "new", seed=1, current=False)
    return Rig(tmp_path)


def test_a_bundle_without_fault_becomes_current_and_only_then(rig: Rig) -> None:
    propose(rig.bundles, "new")
    seen = []
    while (release := rig.step(7)).stage is not Stage.PROMOTED:
        seen.append(release.stage)
        assert current_version(rig.bundles) == "old"
        assert (rig.bundles / SHADOW).exists() == (release.stage is Stage.SHADOW)
    assert current_version(rig.bundles) == "new"
    assert waiting(rig.bundles) is None
    assert [line["stage"] for line in history(rig.bundles)] == [
        *("trained", "gated", "shadow", "canary-1", "canary-10", "canary-50", "promoted")
    ]
    assert Stage.CANARY_1 in seen


@pytest.mark.parametrize("stage", [Stage.TRAINED, Stage.SHADOW, Stage.CANARY_1, Stage.CANARY_50])
def test_harm_in_any_stage_leaves_the_serving_bundle(rig: Rig, stage: Stage) -> None:
    rig.evidence = Given(lambda: rig.now_ms, stage)
    propose(rig.bundles, "new")
    rig.steps_to(Stage.ROLLED_BACK)
    assert current_version(rig.bundles) == "old"
    assert not (rig.bundles / SHADOW).exists()
    assert history(rig.bundles)[-2]["stage"] == stage


@dataclass(frozen=True)
class Raising(Given):
    """No evidence of one stage can be had."""

    error: Exception = field(default_factory=Exception)
    stage: Stage = Stage.TRAINED

    def checks(self, release: Release) -> tuple[Check, ...]:
        self._fail(release)
        return super().checks(release)

    def mirrored(self, release: Release) -> Mirrored:
        self._fail(release)
        return super().mirrored(release)

    def look(self, release: Release) -> Look:
        self._fail(release)
        return super().look(release)

    def _fail(self, release: Release) -> None:
        if release.stage is self.stage:
            raise self.error


def raising(rig: Rig, stage: Stage, error: Exception) -> Raising:
    return Raising(lambda: rig.now_ms, error=error, stage=stage)


@pytest.mark.parametrize("error", [InvalidData("no examples"), ValueError("no examples")])
def test_a_gate_that_cannot_run_is_a_failed_one(rig: Rig, error: Exception) -> None:
    rig.evidence = raising(rig, Stage.TRAINED, error)
    propose(rig.bundles, "new")
    assert rig.step().stage is Stage.ROLLED_BACK
    assert "no examples" in history(rig.bundles)[-1]["reason"]


@pytest.mark.parametrize("stage", [Stage.TRAINED, Stage.SHADOW, Stage.CANARY_1])
def test_a_stage_whose_evidence_cannot_be_read_ends_in_its_longest_time(rig: Rig, stage: Stage) -> None:
    rig.evidence = raising(rig, stage, PermissionError("lake"))
    propose(rig.bundles, "new")
    rig.steps_to(Stage.ROLLED_BACK)
    assert history(rig.bundles)[-1]["reason"] == f"no evidence within the longest time of {stage}"


def test_a_gate_that_ends_its_process_again_and_again_is_not_tried_for_ever(rig: Rig) -> None:
    class OutOfMemory(BaseException):
        pass

    rig.evidence = Given(lambda: rig.now_ms)
    propose(rig.bundles, "new")
    with patch.object(Given, "checks", side_effect=OutOfMemory), pytest.raises(OutOfMemory):
        rig.step()
    rig.now_ms += PLAN.longest_ms(Stage.TRAINED)
    with patch.object(Given, "checks", side_effect=OutOfMemory):
        assert rig.step().stage is Stage.ROLLED_BACK


def test_the_first_bundle_is_published_at_once(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path, "first", current=False)
    propose(tmp_path, "first")
    assert Rig(tmp_path).controller.step() is None
    assert current_version(tmp_path) == "first"
    assert waiting(tmp_path) is None


def test_a_proposal_waits_for_the_end_of_the_release_that_runs(rig: Rig) -> None:
    write_tiny_bundle(rig.bundles, "newer", seed=2, current=False)
    propose(rig.bundles, "new")
    rig.steps_to(Stage.CANARY_1)
    propose(rig.bundles, "newer")
    rig.steps_to(Stage.PROMOTED)
    assert waiting(rig.bundles) == "newer"
    release = rig.step()
    assert (release.version, release.serving) == ("newer", "new")


def test_another_bundle_that_somebody_publishes_ends_the_release(rig: Rig) -> None:
    write_tiny_bundle(rig.bundles, "other", seed=2, current=False)
    propose(rig.bundles, "new")
    rig.steps_to(Stage.CANARY_10)
    publish(rig.bundles, "other")
    assert rig.step().stage is Stage.ROLLED_BACK
    assert current_version(rig.bundles) == "other"


def test_publishing_the_candidate_by_hand_promotes_it(rig: Rig) -> None:
    propose(rig.bundles, "new")
    rig.steps_to(Stage.CANARY_10)
    publish(rig.bundles, "new")
    assert rig.step().stage is Stage.PROMOTED
    assert current_version(rig.bundles) == "new"


def test_a_damaged_candidate_is_refused_and_does_not_stop_the_next_one(rig: Rig) -> None:
    for version in ("missing", "old"):  # damaged; serves already
        with pytest.raises(InvalidBundle):
            offer(rig.bundles, version)
    propose(rig.bundles, "missing")
    assert rig.controller.step() is None
    propose(rig.bundles, "new")
    assert rig.step().version == "new"


def test_evidence_for_a_release_that_a_person_ended_meanwhile_says_nothing(rig: Rig) -> None:
    class Slow(Given):
        def checks(self, release: Release) -> tuple[Check, ...]:
            aborted = lambda now: decide(now, Abort(rig.now_ms, "by ann"), PLAN)  # noqa: E731
            change(rig.bundles, aborted, tuple)
            return super().checks(release)

    rig.evidence = Slow(lambda: rig.now_ms)
    propose(rig.bundles, "new")
    assert rig.step().stage is Stage.ROLLED_BACK
    assert history(rig.bundles)[-1]["reason"] == "by ann"


def test_a_person_promotes_what_has_passed_the_gate(rig: Rig) -> None:
    with pytest.raises(InvalidConfig, match="recsys release run"):
        change(rig.bundles, lambda now: now, tuple)
    propose(rig.bundles, "new")
    rig.steps_to(Stage.SHADOW)
    found = change(rig.bundles, lambda now: decide(now, Promote(rig.now_ms, "ann"), PLAN), tuple)
    assert (found.stage, found.settled) == (Stage.PROMOTED, True)
    assert current_version(rig.bundles) == "new"
    assert not (rig.bundles / SHADOW).exists()


def test_a_promotion_that_cannot_be_published_is_rolled_back(rig: Rig) -> None:
    write_tiny_bundle(rig.bundles, "newer", seed=2, current=False)
    propose(rig.bundles, "new")
    rig.steps_to(Stage.CANARY_50)
    (rig.bundles / "new" / "items.parquet").write_bytes(b"damaged")
    propose(rig.bundles, "newer")
    rig.now_ms += 48 * MS_PER_HOUR
    assert rig.step().stage is Stage.ROLLED_BACK
    assert "cannot be published" in history(rig.bundles)[-1]["reason"]
    assert current_version(rig.bundles) == "old"
    assert rig.step().version == "newer", "the next one is not kept waiting"


def test_a_kill_at_any_change_of_a_file_leaves_no_wrong_state(rig: Rig) -> None:
    kills, wrong = kill_everywhere(rig.bundles, "old", "new", harmful=(None, Stage.CANARY_10))
    assert kills > 50
    assert wrong == 0
