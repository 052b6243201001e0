"""Experiments in the request path: sticky arms, what they change, what the answer and the log say of them."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.impressions import Exposure, parse_exposures, parse_impression
from recsys.contracts.types import Diversity, EventType, Head, Topic
from recsys.experiments.growth import Growth
from serving.api.monitoring.experiment_outcomes import ExperimentOutcomes, read_in_child
from serving.engine.experiments import Experiments, read_experiments
from serving.engine.pipeline_builder import PathConfig
from tests.bundles import write_tiny_bundle
from tests.recsys.experiments.lakes import LakeBuilder, day
from tests.serving.conftest import Api
from tests.serving.waiting import eventually

EXPLORING = """
experiments:
  - name: explore
    layer: rerank
    arms:
      - name: control
        settings: {rerank: {diversity: none}}
      - name: draws
        weight: 3
        settings: {rerank: {diversity: none}, exploration: {places: [0, 1], pool: 10}}
  - name: wide
    layer: recall
    last: 0.5
    arms: [{name: narrow, settings: {candidates: 12}}]
"""
USERS = [f"user-{n}" for n in range(60)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiments.yaml"
    path.write_text(EXPLORING, encoding="utf-8")
    return path


def test_answers_follow_the_arm_and_the_log_says_which_with_its_propensity(
    make_api: Callable[..., Api], file: Path
) -> None:
    api = make_api(experiments=file)
    answers = {user: api.recommend(user, k=5).json() for user in USERS}
    arms = {user: answer["arms"] for user, answer in answers.items()}
    assert {found["explore"] for found in arms.values()} == {"control", "draws"}
    assert {"wide" in found for found in arms.values()} == {True, False}

    lists = {tuple(i["item_id"] for i in a["items"]) for a in answers.values()}
    control = [a for user, a in answers.items() if arms[user] == {"explore": "control"}]
    assert len({tuple(i["item_id"] for i in a["items"]) for a in control}) == 1, "nothing is drawn"
    assert len(lists) > 5, "the other arm draws"
    for user, answer in answers.items():
        drawn = [item["propensity"] < 1 for item in answer["items"]]
        assert drawn == [arms[user]["explore"] == "draws"] * 2 + [False] * 3

    logged = [parse_impression(raw) for raw in api.logged(Topic.IMPRESSIONS, at_least=len(USERS))]
    for impression in logged:
        exposures = parse_exposures(impression.arm)
        assert {name: x.arm for name, x in exposures.items()} == arms[impression.user_id]
        share = {"control": 0.25, "draws": 0.75}[exposures["explore"].arm]
        assert exposures["explore"] == Exposure(exposures["explore"].arm, share)


def test_a_user_keeps_the_arm_and_a_cached_list_the_exposure(
    make_api: Callable[..., Api], file: Path
) -> None:
    api = make_api(experiments=file, result_cache_ms=60_000)
    first, again = (api.recommend("user-1").json() for _ in range(2))
    assert again["cached"]
    assert first["arms"] == again["arms"] != {}
    assert len({raw["arm"] for raw in api.logged(Topic.IMPRESSIONS, at_least=2)}) == 1


def test_another_arm_never_gets_the_cached_list(make_api: Callable[..., Api], file: Path) -> None:
    api = make_api(experiments=file, result_cache_ms=60_000)
    user = next(u for u in USERS if api.recommend(u, k=5).json()["arms"]["explore"] == "draws")
    file.write_text(EXPLORING.replace("weight: 3", "weight: 0.000001"), encoding="utf-8")
    eventually(lambda: api.recommend(user, k=5).json()["arms"]["explore"] == "control")
    assert all(item["propensity"] == 1 for item in api.recommend(user, k=5).json()["items"])


def test_an_arm_with_other_settings_never_gets_the_cached_list_of_the_old_ones(
    make_api: Callable[..., Api], file: Path
) -> None:
    api = make_api(experiments=file, result_cache_ms=60_000)
    user = next(u for u in USERS if api.recommend(u, k=5).json()["arms"]["explore"] == "draws")
    file.write_text(EXPLORING.replace("places: [0, 1]", "places: [2]"), encoding="utf-8")

    def drawn() -> list[bool]:
        return [item["propensity"] < 1 for item in api.recommend(user, k=5).json()["items"]]

    eventually(lambda: drawn() == [False, False, True, False, False])


def test_fewer_candidates_are_ranked_in_the_arm_that_says_so(
    make_api: Callable[..., Api], file: Path
) -> None:
    api = make_api(experiments=file)
    for user in USERS[:20]:
        answer = api.recommend(user, query="?explain=true", k=20).json()
        assert (len(answer["funnel"]["ranked"]) <= 12) == ("wide" in answer["arms"])


def test_an_arm_has_its_own_bundle_and_without_it_the_published_one_and_says_so(
    make_api: Callable[..., Api], file: Path, tmp_path: Path
) -> None:
    arms = "{name: old}, {name: new, bundle: v2}"
    file.write_text(f"experiments: [{{name: models, arms: [{arms}]}}]", encoding="utf-8")
    api = make_api(experiments=file)
    user = next(u for u in USERS if api.recommend(u).json()["arms"] == {"models": "new"})
    answer = api.recommend(user).json()
    assert (answer["bundle"], answer["degraded"]) == ("v1", ["arm_bundle"])

    write_tiny_bundle(tmp_path / "var" / "bundles", "v2", seed=1, current=False)
    api.services.host.load("v2")
    answer = api.recommend(user).json()
    assert (answer["bundle"], answer["degraded"]) == ("v2", [])
    other = next(u for u in USERS if api.recommend(u).json()["arms"] == {"models": "old"})
    assert api.recommend(other).json()["bundle"] == "v1"


def test_the_route_lists_what_runs_and_whose_arms(make_api: Callable[..., Api], file: Path) -> None:
    api = make_api(experiments=file)
    found = api.client.get("/v1/experiments").json()
    assert [e["name"] for e in found["experiments"]] == ["explore", "wide"]
    assert [arm["share"] for arm in found["experiments"][0]["arms"]] == [0.25, 0.75]
    assert found["experiments"][1]["last"] == 0.5
    assert found["error"] == ""
    named = api.client.get("/v1/experiments", params={"user_id": "user-1"}).json()
    assert named["arms"] == api.recommend("user-1").json()["arms"]


def test_without_a_file_nobody_is_in_an_experiment(api: Api) -> None:
    assert api.client.get("/v1/experiments").json()["experiments"] == []
    assert api.recommend().json()["arms"] == {}
    assert api.logged(Topic.IMPRESSIONS, at_least=1)[0]["arm"] == ""


def test_a_file_that_becomes_invalid_changes_nothing_and_is_reported(
    make_api: Callable[..., Api], file: Path
) -> None:
    api = make_api(experiments=file)
    before = api.recommend("user-1").json()["arms"]
    file.write_text("experiments: [{name: x, arms: [{name: a, settings: {candidats: 3}}]}]", encoding="utf-8")
    eventually(lambda: "candidats" in api.client.get("/v1/experiments").json()["error"])
    assert api.recommend("user-1").json()["arms"] == before


def test_an_arm_changes_what_it_names_and_nothing_else(file: Path) -> None:
    file.write_text(
        "experiments: [{name: x, arms: [{name: a, settings: {rerank: {diversity: dpp},"
        " exploration: {places: [3]}, weights: {click: 1, conversion: 4}}}]}]",
        encoding="utf-8",
    )
    base = PathConfig(candidates=77)
    path = Experiments(file, base).of("anybody").path
    assert path.candidates == 77
    assert path.rerank.diversity is Diversity.DPP
    assert (path.rerank.pool, path.rerank.strength) == (base.rerank.pool, base.rerank.strength)
    assert path.rerank.exploration.places == (3,)
    assert dict(path.weights) == {Head.CLICK: 1.0, Head.CONVERSION: 4.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("experiments: [{name: a:b, arms: [{name: c}]}]", "name"),
        ("experiments: [{name: a, arms: []}]", "arms"),
        (
            "experiments: [{name: a, arms: [{name: c, settings: {candidates: 0}}]}]",
            "a:c: settings: candidates",
        ),
        ("experiments: [{name: a, arms: [{name: c, settings: {rerank: {exploration: {}}}}]}]", "next to"),
        ("experiments: [{name: a, arms: [{name: c}]}, {name: b, arms: [{name: c}]}]", "overlap"),
        (
            "experiments: [{name: a, arms: [{name: c, bundle: x}]},"
            " {name: b, layer: other, arms: [{name: c, bundle: y}]}]",
            "both set bundle",
        ),
        ("experiments: {", "not YAML"),
        ("experimentz: []", "experimentz"),
    ],
)
def test_contradictions_are_refused_with_their_place(file: Path, content: str, message: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidConfig, match=message) as caught:
        read_experiments(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_at_the_start_means_no_experiment_and_is_named(tmp_path: Path) -> None:
    experiments = Experiments(tmp_path / "none.yaml", PathConfig())
    assert "No such file" in experiments.error
    assert (experiments.running, dict(experiments.of("u").arms)) == ((), {})


def test_outcomes_of_the_arms_are_read_from_the_lake(make_api: Callable[..., Api], file: Path) -> None:
    api = make_api(experiments=file)
    found = api.client.get("/v1/experiments/explore/outcomes").json()
    assert (found["experiment"], found["looks_ms"], found["arms"]) == ("explore", [], [])
    lake = LakeBuilder()  # what the archiver would have written meanwhile
    for n, arm in enumerate(["control", "draws"] * 3):
        request = lake.show(f"u{n}", day(0), ["i1/p", "i2/p"], f"explore:{arm}@0.5")
        lake.act(EventType.CLICK, f"u{n}", day(0) + 1_000, "i1/p", request)
    lake.write(api.services.settings.lake)
    app = api.client.app
    assert isinstance(app, FastAPI)
    app.state.outcomes = ExperimentOutcomes(api.services.settings.lake)
    found = api.client.get("/v1/experiments/explore/outcomes").json()
    assert {arm["name"]: arm["users"][-1] for arm in found["arms"]} == {"control": 3, "draws": 3}
    assert found["arms"][0]["metrics"]["ctr"][-1]["value"] == 0.5
    assert found["age_s"] >= 0
    missing = api.client.get("/v1/experiments/other/outcomes")
    assert missing.status_code == 404
    assert "GET /v1/experiments" in missing.json()["detail"]


def test_a_lake_that_cannot_be_read_is_503_and_says_why(make_api: Callable[..., Api], file: Path) -> None:
    api = make_api(experiments=file)
    broken = api.services.settings.lake / "impressions" / "dt=2026-01-01" / "x.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no parquet")
    response = api.client.get("/v1/experiments/explore/outcomes")
    assert response.status_code == 503
    assert "not a readable Parquet file" in response.json()["detail"]


def test_outcomes_are_read_once_in_a_while_and_whoever_comes_meanwhile_gets_the_last_ones() -> None:
    at, reads, go = [0.0], [0], threading.Event()
    go.set()

    def read(lake: Path, experiment: str) -> Growth:
        reads[0] += 1
        assert go.wait(20)
        return Growth(experiment=experiment, crossed=reads[0])

    outcomes = ExperimentOutcomes(Path(), read, lambda: at[0])
    assert outcomes.of("x") == (Growth(experiment="x", crossed=1), 0.0)
    at[0] = 5.0
    assert outcomes.of("x")[1] == 5.0
    assert reads[0] == 1
    at[0] = 30.0
    go.clear()
    slow = threading.Thread(target=outcomes.of, args=("x",))
    slow.start()
    eventually(lambda: reads[0] == 2)
    assert outcomes.of("x") == (Growth(experiment="x", crossed=1), 30.0)
    go.set()
    slow.join()
    assert outcomes.of("x") == (Growth(experiment="x", crossed=2), 0.0)


def test_nobody_waits_for_a_reading_that_is_not_theirs_and_a_failure_is_kept_as_an_answer_is() -> None:
    at, reads, go = [0.0], [0], threading.Event()

    def read(lake: Path, experiment: str) -> Growth:
        reads[0] += 1
        assert go.wait(20)
        raise Unavailable("no lake")

    def failure(experiment: str) -> str:
        with pytest.raises(Unavailable) as caught:
            outcomes.of(experiment)
        return str(caught.value)

    outcomes = ExperimentOutcomes(Path(), read, lambda: at[0])
    slow = threading.Thread(target=failure, args=("x",))
    slow.start()
    eventually(lambda: reads[0] == 1)
    for experiment in ("x", "y"):
        assert "being read" in failure(experiment)
    go.set()
    slow.join()
    assert [failure("x") for _ in range(3)] == ["no lake"] * 3
    assert reads[0] == 1
    at[0] = 30.0
    failure("x")
    assert reads[0] == 2


def test_an_answer_of_the_reader_that_is_none_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = tmp_path / "python"
    nothing.write_text("#!/bin/sh\necho null\n", encoding="utf-8")
    nothing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(nothing))
    with pytest.raises(Unavailable, match="recsys ab report x"):
        read_in_child(tmp_path, "x")
