"""`recsys release`: what a person sees of a release and decides, and where training proposes."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra.cli.commands import release
from infra.cli.commands.release import app
from infra.cli.training_runs import proposes, publish_bundle
from infra.release.autopilot import AlreadyRuns, alone
from recsys.bundle import current_version, open_bundle
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.experiments.release import Stage, proposed
from recsys.experiments.release_file import use, waiting, write_release
from recsys.settings import Settings
from tests.bundles import write_tiny_bundle

RELEASE = proposed("new", "old", 1_750_000_000_000)
Run = Callable[..., Result]


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setattr(release, "stop_event", threading.Event)  # the test run keeps its Ctrl-C
    write_tiny_bundle(tmp_path / "bundles", "old")
    write_tiny_bundle(tmp_path / "bundles", "new", seed=1, current=False)
    return tmp_path / "bundles"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_run_without_examples_ends_at_the_gate_and_says_what_to_do(bundles: Path) -> None:
    found = run("run", "new", "--json")
    assert found.exit_code == 1
    state = json.loads(found.stdout.splitlines()[-1])
    assert (state["stage"], state["published"], state["waiting"]) == ("rolled-back", "old", None)
    assert "recsys features build" in state["reason"]
    assert [line["stage"] for line in printed("history")] == ["trained", "rolled-back"]
    assert "failed: gate" in run("status").stdout


def test_where_another_process_releases_a_run_only_proposes(bundles: Path) -> None:
    with alone(bundles):
        with pytest.raises(AlreadyRuns), alone(bundles):
            pass
        assert run("run", "new").exit_code == 0
    assert waiting(bundles) == "new"
    assert current_version(bundles) == "old"


def test_a_person_aborts_and_promotes(bundles: Path) -> None:
    write_release(bundles, replace(RELEASE, stage=Stage.CANARY_10, users=7, p={"ctr": 0.5}))
    state = printed("status")
    assert (state["stage"], state["share"], state["users"]) == ("canary-10", 0.1, 7)
    assert printed("abort", "--reason", "complaints")["reason"].startswith("complaints (")
    assert isinstance(run("promote").exception, InvalidConfig)
    write_release(bundles, replace(RELEASE, stage=Stage.SHADOW))
    assert printed("promote")["published"] == "new"
    assert "bundle publish old" in str(run("abort").exception)


def test_without_a_release_there_is_nothing_to_decide(bundles: Path) -> None:
    assert printed("status") == {"published": "old", "waiting": None}
    assert printed("history") == []
    for command in ("abort", "promote", "run"):
        assert isinstance(run(command).exception, InvalidConfig)


def test_a_run_that_begins_nothing_leaves_training_as_it_was(bundles: Path) -> None:
    assert isinstance(run("run").exception, InvalidConfig)
    assert isinstance(run("run", "missing").exception, InvalidBundle)
    assert not proposes(Settings())


def test_training_says_that_nobody_takes_its_proposal(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.publish.main", lambda config: open_bundle(bundles / "new"))
    with alone(bundles):
        publish_bundle(Settings(), proposing=True)
    assert capsys.readouterr().err == ""
    publish_bundle(Settings(), proposing=True)
    assert "recsys autopilot" in capsys.readouterr().err
    assert waiting(bundles) == "new"


def test_training_proposes_where_bundles_are_released_and_one_serves(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert not proposes(settings)
    settings.bundles.mkdir()
    use(settings.bundles)
    assert not proposes(settings), "the first bundle serves at once"
    write_tiny_bundle(settings.bundles, "old")
    assert proposes(settings)
