"""A release in the API: the share of users that the state says gets the candidate, within a second of the change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.experiments.release import CANARY, LAYER, Stage, proposed
from recsys.experiments.release_file import STATE, write_release
from serving.engine.experiments import Experiments, read_experiments
from serving.engine.pipeline_builder import PathConfig
from tests.bundles import write_tiny_bundle
from tests.serving.conftest import Api
from tests.serving.waiting import eventually

RELEASE = replace(proposed("v2", "v1", 1_750_000_000_000), settled=True)
NAME = "canary-50.v2.0615150640"  # with the time of the stage
USERS = [f"u{n}" for n in range(100)]


def test_users_of_the_canary_get_the_candidate_until_it_is_rolled_back(make_api: Callable[..., Api]) -> None:
    api = make_api(bundle_poll_s=0.05)
    bundles = api.services.settings.bundles
    write_tiny_bundle(bundles, "v2", seed=5, current=False)
    write_release(bundles, replace(RELEASE, stage=Stage.CANARY_50))
    eventually(lambda: "v2" in {api.recommend(user).json()["bundle"] for user in USERS[:20]})
    answers = [api.recommend(user).json() for user in USERS]
    shown = [answer["bundle"] for answer in answers]
    assert 30 < shown.count("v2") < 70
    arms = [answer["arms"][NAME] for answer in answers]
    assert [arm == CANARY for arm in arms] == [version == "v2" for version in shown]
    assert not any(answer["degraded"] for answer in answers)
    state = api.client.get("/v1/release").json()
    assert (state["release"]["stage"], state["release"]["share"], state["published"]) == (
        "canary-50",
        0.5,
        "v1",
    )
    metrics = api.client.get("/metrics").text
    assert 'recsys_release_seconds_count{arm="canary"}' in metrics
    assert 'recsys_release_degraded_total{arm="control"} 0.0' in metrics

    write_release(bundles, replace(RELEASE, stage=Stage.ROLLED_BACK, number=1))
    eventually(lambda: {api.recommend(user).json()["bundle"] for user in USERS} == {"v1"})
    assert NAME not in api.recommend(USERS[0]).json()["arms"]


def test_a_damaged_state_keeps_the_last_one_and_is_said(make_api: Callable[..., Api]) -> None:
    api = make_api()
    assert api.client.get("/v1/release").json()["release"] is None
    (api.services.settings.bundles / STATE).write_text("{")
    eventually(lambda: STATE in api.services.damaged_files())
    assert STATE in api.client.get("/v1/release").json()["error"]


CHOOSES = """
experiments:
  - {name: models, layer: models, last: 0.5, arms: [{name: control}, {name: other, bundle: v3}]}
"""


def test_users_of_an_experiment_that_chooses_bundles_have_no_part_in_a_release(tmp_path: Path) -> None:
    file = tmp_path / "experiments.yaml"
    file.write_text(CHOOSES)
    write_release(tmp_path, replace(RELEASE, stage=Stage.CANARY_50))
    experiments = Experiments(file, PathConfig(), tmp_path / STATE)
    found = [experiments.of(user) for user in USERS]
    both = [assigned for assigned in found if "models" in assigned.arms]
    others = [assigned for assigned in found if "models" not in assigned.arms]
    assert both
    assert not any(assigned.release for assigned in both)
    assert {assigned.bundle for assigned in both} == {"", "v3"}
    assert all(assigned.release for assigned in others)
    assert {assigned.bundle for assigned in others} == {"", "v2"}
    assert experiments.bundles == {"v2", "v3"}


def test_the_releases_layer_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "experiments.yaml"
    file.write_text(f"experiments: [{{name: mine, layer: {LAYER}, arms: [{{name: a}}]}}]")
    with pytest.raises(InvalidConfig, match="recsys release"):
        read_experiments(file)
