"""What the page shows of a running experiment: the report's figures, look by look, with intervals that shrink."""

from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.types import EventType
from recsys.experiments.analysis import ArmData, estimate
from recsys.experiments.comparison import lifts
from recsys.experiments.growth import Growth
from recsys.experiments.growth_reader import growth
from recsys.experiments.outcomes import outcomes_by_day
from tests.recsys.experiments.lakes import LakeBuilder, day

USERS, DAYS = 60, 3


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every user gets a list of four items a day; the treatment's click twice as often."""
    rng, built = np.random.default_rng(0), LakeBuilder()
    for n in range(DAYS):
        for user in range(USERS):
            arm = "b" if user % 2 else "control"
            at = day(n, 8 + user / 10)
            request = built.show(f"u{user}", at, [f"i{i}/p" for i in range(4)], f"x:{arm}@0.5")
            for i in np.flatnonzero(rng.random(4) < (0.4 if arm == "b" else 0.2)):
                built.act(EventType.CLICK, f"u{user}", at + 1_000, f"i{i}/p", request)
    path = tmp_path_factory.mktemp("lake")
    built.write(path)
    return path


def test_arms_grow_and_their_intervals_shrink(lake: Path) -> None:
    found = growth(lake, "x")
    assert (found.experiment, found.control, found.crossed) == ("x", "control", 0)
    assert [arm.name for arm in found.arms] == ["b", "control"]
    assert found.looks_ms == sorted(found.looks_ms)
    assert found.newest_ms == day(DAYS - 1, 8 + (USERS - 1) / 10)
    for arm in found.arms:
        assert arm.users == sorted(arm.users)
        assert (arm.users[-1], arm.lists[-1], arm.impressions[-1]) == (30, 90, 360)
        ctr = arm.metrics["ctr"]
        assert len(ctr) == len(found.looks_ms)
        known = [x for x in ctr if x is not None]
        assert all(x.low <= x.value <= x.high for x in known)
        assert known[-1].high - known[-1].low < known[0].high - known[0].low
        assert arm.metrics["cvr"][-1] is not None, "clicks, and no purchase: 0"
        assert arm.metrics["cvr"][-1].value == 0
    assert "clicks per shown item" in found.metrics["ctr"]


def test_the_lifts_are_those_of_the_report(lake: Path) -> None:
    arms = {arm.name: arm for arm in growth(lake, "x").arms}
    expected = lifts(list(outcomes_by_day(lake, "x"))[-1], "control", "b")["ctr"]
    lift = arms["b"].lifts["ctr"]
    assert (lift.relative, lift.low, lift.high, lift.p) == (
        expected.relative,
        expected.low,
        expected.high,
        expected.p,
    )
    assert lift.sequential_p <= expected.always_valid_p
    assert arms["control"].lifts == {}


def test_nobody_in_it_yet(lake: Path, tmp_path: Path) -> None:
    assert growth(lake, "y").looks_ms == []
    assert growth(tmp_path / "no lake", "x").arms == []


def test_users_who_have_all_crossed_leave_nothing_to_check(tmp_path: Path) -> None:
    built = LakeBuilder()
    for user in range(3):
        for hour, arm in enumerate(["control", "b"]):
            built.show(f"u{user}", day(0, 8 + hour), ["i1/p"], f"x:{arm}@0.5")
    built.write(tmp_path)
    found = growth(tmp_path, "x")
    assert (found.crossed, found.split_p) == (3, 1.0)
    assert [arm.users[-1] for arm in found.arms] == [0, 0]
    assert Growth.model_validate_json(found.model_dump_json()) == found


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        shown = rng.integers(
            1, 40, 200
        )  # users differ: a binomial interval over impressions would be too narrow
        taste = rng.beta(2, 8, 200)
        found = estimate(ArmData(rng.binomial(shown, taste).astype(float), shown.astype(float)))
        covered += found.low <= 0.2 <= found.high
    assert 0.92 <= covered / 400 <= 0.98
