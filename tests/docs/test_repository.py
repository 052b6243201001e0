"""The files that a visitor of the repository expects: the licence, and hosted CI that runs the documented command."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LARGE_BYTES = 500_000


def test_the_licence_file_is_the_declared_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    for name in project["license-files"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.split()[:7] == [
            "Apache",
            "License",
            "Version",
            "2.0,",
            "January",
            "2004",
            "http://www.apache.org/licenses/",
        ]
        assert "END OF TERMS AND CONDITIONS" in text


def test_no_large_file_is_under_version_control() -> None:
    """Data, models and binaries are made or fetched."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    assert not [file for file in files if file.is_file() and file.stat().st_size > LARGE_BYTES]


def test_hosted_ci_runs_the_documented_test_command() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    versions = {name: value for step in job["steps"] for name, value in step.get("with", {}).items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={versions['python-version']}"
    assert versions["java-version"] == "17"


def test_hosted_ci_tries_the_wheel_on_every_python_that_the_metadata_name() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"][
        "wheel"
    ]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/wheel"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [each.rpartition(" ")[2] for each in project["classifiers"] if ":: Python :: 3." in each]
    assert job["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
