"""`recsys bundle copy`, `delta` and `apply`: what is sent, and what is saved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra.cli.commands.bundle import app
from recsys.bundle import open_bundle
from recsys.contracts.errors import InvalidBundle
from tests.bundles import write_tiny_bundle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are trained: v2 is published, hosts have v1."""
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "training"))
    for seed, version in enumerate(("v1", "v2")):
        write_tiny_bundle(tmp_path / "training" / "bundles", version, seed=seed)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def printed(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_delta_goes_from_training_to_a_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, file, host = home / "training" / "bundles", home / "update.delta", home / "host" / "bundles"
    whole = printed("copy", host, "--version", "v1")
    assert whole["copied_bytes"] == whole["bytes"] == sum(p.stat().st_size for p in (host / "v1").iterdir())
    written = printed("delta", "v1", "--out", file)
    assert (written["base"], written["version"]) == ("v1", "v2")
    assert written["delta_bytes"] == file.stat().st_size == written["bytes"] - written["saved_bytes"]
    files = [name for kind in ("unchanged", "differences", "whole") for name in written[kind]]
    assert sorted(files) == sorted(open_bundle(trained / "v2").manifest.files)
    assert "items.parquet" in written["unchanged"]

    monkeypatch.setenv("RECSYS_HOME", str(home / "host"))
    made = printed("apply", file)
    assert (made["version"], made["delta_bytes"]) == ("v2", written["delta_bytes"])
    assert open_bundle(host / "v2").manifest == open_bundle(trained / "v2").manifest
    assert printed("apply", file) == made
    assert "saved_bytes" in run("apply", file).stdout

    shutil.rmtree(host)
    assert isinstance(run("apply", file).exception, InvalidBundle)


def test_a_copy_says_what_it_has_saved(home: Path) -> None:
    host = home / "host"
    printed("copy", host, "--version", "v1")
    second = printed("copy", host)
    assert 0 < second["copied_bytes"] < second["bytes"]
    assert second["saved_bytes"] == second["bytes"] - second["copied_bytes"]
