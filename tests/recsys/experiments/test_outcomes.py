"""Sums per user from a lake, counted by hand; comparisons of a lake with a planted lift."""

from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.impressions import exposures_text
from recsys.contracts.types import MS_PER_HOUR, EventType
from recsys.experiments.assignment import Arm, Assigner, Experiment
from recsys.experiments.comparison import catalogue_lifts, false_positive_rate, gini, lifts, split_p
from recsys.experiments.outcomes import Outcomes, first_day, outcomes_by_day, outcomes_by_step
from tests.recsys.experiments.lakes import LakeBuilder, day

A, B = "x:a@0.5", "x:b@0.5|other:c@1"


def last(lake: Path, experiment: str = "x") -> Outcomes:
    return list(outcomes_by_day(lake, experiment))[-1]


def of(outcomes: Outcomes, arm: str, name: str) -> list[float]:
    return sorted(outcomes.sums[name][outcomes.arm == outcomes.arms.index(arm)].tolist())


def test_every_sum_of_a_lake_counted_by_hand(tmp_path: Path) -> None:
    lake = LakeBuilder()
    first = lake.show("u1", day(0, 9), ["i1/p", "i2/p", "i3/q"], A)
    lake.show("u1", day(0, 9.25), ["i4/p"], A)  # the same session
    lake.show("u1", day(0, 20), ["i5/p", "i6/q"], A)  # another one
    lake.show("u1", day(1, 9), ["i7/p", "i8/p"], A)  # came back
    lake.show("u2", day(0, 23.9), ["i1/p"], B)
    late = lake.show("u2", day(2, 23.99), ["i1/p", "i2/p"], B)  # one day missed
    lake.show("u9", day(0), ["i1/p"], "other:c@1")  # not in the experiment
    for _ in range(2):
        lake.act(EventType.CLICK, "u1", day(0, 9.1), "i1/p", first)  # twice, counts once
    lake.act(EventType.DWELL, "u1", day(0, 9.11), "i1/p", first, 4_500.0)
    lake.act(EventType.PURCHASE, "u1", day(0, 9.12), "i1/p", first, 20.0)
    lake.act(EventType.LIKE, "u1", day(0, 9.13), "i3/q", first)
    lake.act(EventType.CLICK, "u2", day(3, 0.1), "i2/p", late)  # after midnight: of no day with impressions
    lake.act(EventType.CLICK, "u2", day(2, 8), "i2/p", None)  # not from a list of ours
    lake.act(EventType.LIKE, "u2", day(0, 9.14), "i1/p", first)  # from somebody else's list
    lake.write(tmp_path)

    found = last(tmp_path)
    assert found.arms == ("a", "b")
    assert found.shares == (0.5, 0.5)
    expected = {
        "users": ([1], [1]),
        "lists": ([4], [2]),
        "impressions": ([8], [3]),
        "sessions": ([3], [2]),
        "clicks": ([1], [0]),
        "likes": ([1], [0]),
        "purchases": ([1], [0]),
        "dwell_s": ([4.5], [0]),
        "revenue": ([20], [0]),
        "distance": ([pytest.approx(2 / 3 + 0 + 1 + 0)], [0]),
        "days": ([2], [1]),
        "returns": ([1], [0]),
    }
    for name, (a, b) in expected.items():
        assert (of(found, "a", name), of(found, "b", name)) == (a, b), name
    assert len(found.shown_item) == 11


def test_an_action_after_midnight_counts_for_the_list_of_the_day_before(tmp_path: Path) -> None:
    lake = LakeBuilder()
    request = lake.show("u1", day(0, 23.99), ["i1/p"], A)
    lake.show("u2", day(1), ["i1/p"], B)
    lake.act(EventType.CLICK, "u1", day(1, 0.01), "i1/p", request)
    lake.write(tmp_path)
    assert of(last(tmp_path), "a", "clicks") == [1]


def test_a_user_in_two_arms_counts_for_neither(tmp_path: Path) -> None:
    lake = LakeBuilder()
    for user, arm in (("u1", A), ("u1", B), ("u2", A), ("u3", B)):
        lake.show(user, day(0), ["i1/p"], arm)
    lake.write(tmp_path)
    found = last(tmp_path)
    assert found.crossed == 1
    assert len(found.arm) == 2
    assert len(found.shown_user) == 2


def test_an_experiment_that_nobody_saw_is_refused(tmp_path: Path) -> None:
    lake = LakeBuilder()
    lake.show("u1", day(0), ["i1/p"], A)
    lake.write(tmp_path)
    assert first_day(tmp_path, "x") == "2025-06-16"
    with pytest.raises(InvalidData, match="no impression of an experiment 'y'"):
        first_day(tmp_path, "y")


PLANTED = 0.4


def planted_lake(lake: Path, users: int = 400, shares: tuple[float, float] = (1, 1)) -> None:
    """Users differ in taste, which the two days before show; arm `better` has 40 % more clicks, on fewer items."""
    arms = (Arm(name="control", weight=shares[0]), Arm(name="better", weight=shares[1]))
    assigner = Assigner([Experiment(name="x", arms=arms)])
    rng, builder = np.random.default_rng(4), LakeBuilder()
    for u in range(users):
        user, taste = f"u{u}", rng.beta(2, 8)
        assigned = assigner.assign(user)
        better = assigned[0].arm.name == "better"
        for number in range(4):
            if rng.random() < 0.2:
                continue
            arm = exposures_text({a.experiment: a.exposure for a in assigned}) if number >= 2 else ""
            pool = 20 if better and arm else 60
            items = [f"i{n}/c{n % 3}" for n in rng.choice(pool, 10, replace=False)]
            request = builder.show(user, day(number, 8 + rng.random()), items, arm)
            rate = taste * (1 + PLANTED * (better and bool(arm)))
            for item in items:
                if rng.random() < rate:
                    builder.act(EventType.CLICK, user, day(number, 10), item, request)
                    builder.act(EventType.DWELL, user, day(number, 10.1), item, request, 5_000.0)
    builder.write(lake)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    lake = tmp_path_factory.mktemp("lake")
    planted_lake(lake)
    return last(lake)


def test_a_planted_lift_is_found_and_covered(planted: Outcomes) -> None:
    found = lifts(planted, "control", "better")
    assert found["ctr"].low <= PLANTED <= found["ctr"].high
    assert found["ctr"].p < 0.001
    assert found["dwell_per_session_s"].low <= PLANTED <= found["dwell_per_session_s"].high
    assert found["list_distance"].relative == pytest.approx(0, abs=0.05)
    assert "cvr" not in found, "nobody bought anything"


def test_the_days_before_reduce_the_variance(planted: Outcomes) -> None:
    assert planted.before["impressions"].sum() > 5_000
    assert lifts(planted, "control", "better")["ctr"].variance_kept < 0.85


def test_fewer_items_shown_is_less_coverage(planted: Outcomes) -> None:
    wide = catalogue_lifts(planted, "control", "better", np.random.default_rng(0))
    assert wide["coverage"].relative == pytest.approx(20 / 60 - 1, abs=0.02)
    assert wide["coverage"].high < -0.5
    assert wide["evenness"].high < 0


def test_a_against_a_is_quiet(planted: Outcomes) -> None:
    rates = false_positive_rate(planted, np.random.default_rng(1), tests=1_000)
    assert 0.03 <= rates["ctr"] <= 0.07
    assert 0.03 <= np.mean(list(rates.values())) <= 0.07


def test_the_split_is_checked_against_the_logged_shares(planted: Outcomes, tmp_path: Path) -> None:
    assert split_p(planted) > 0.01
    planted_lake(tmp_path, shares=(1, 3))
    found = last(tmp_path)
    assert found.shares == (0.75, 0.25)  # better, control
    assert split_p(found) > 0.01
    wrong = Outcomes(**{**vars(found), "shares": (0.5, 0.5)})
    assert split_p(wrong) < 0.001


def test_gini_knows_the_ends() -> None:
    assert gini(np.full(5, 3.0)) == pytest.approx(0)
    assert gini(np.zeros(4)) == 0
    assert gini(np.array([0, 0, 0, 0, 9.0])) == pytest.approx(0.8)


def test_looks_within_a_day_see_what_had_happened_by_then(tmp_path: Path) -> None:
    lake = LakeBuilder()
    morning = lake.show("u1", day(0, 9.5), ["i1/p"], A)
    lake.show("u0", day(0, 8), ["i1/p"], "other:c@1")
    lake.show("u2", day(0, 11.5), ["i1/p", "i2/p"], B)
    lake.act(EventType.CLICK, "u1", day(0, 12.5), "i1/p", morning)
    lake.show("u3", day(1, 0.5), ["i1/p"], B)
    lake.write(tmp_path)
    looks = list(outcomes_by_step(tmp_path, "x", MS_PER_HOUR))
    assert [at for at, _ in looks] == [
        *(day(0, hour) for hour in (10, 11, 12)),
        day(0, 12.5) + 1,
        day(1, 0.5) + 1,
    ]
    assert [len(found.arm) for _, found in looks] == [1, 1, 2, 2, 3]
    assert [found.sums["clicks"].sum() for _, found in looks] == [0, 0, 0, 1, 1]
    by_day = list(outcomes_by_day(tmp_path, "x"))
    for found, (_, look) in zip(by_day, looks[-2:], strict=True):
        assert {name: sums.tolist() for name, sums in found.sums.items()} == {
            name: sums.tolist() for name, sums in look.sums.items()
        }
