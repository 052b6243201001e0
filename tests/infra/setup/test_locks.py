"""What is installed is what was looked at: every package by hash, every image by digest, every action by commit."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "infra" / "setup" / "locks"
EXTRAS = {
    "serving": ("database", "s3"),
    "training": ("train", "spark", "s3"),
    "dev": ("train", "spark", "milvus", "otel", "database", "s3", "dev"),
}
# Kept by an operator, which takes a tag only.
BY_TAG = {"quay.io/opstree/redis:v7.2.3"}


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package → its version and hashes."""
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (LOCKS / f"{name}.txt").read_text(encoding="utf-8"))[1:]:
        package, version = re.split(r"==|[ ;\\]", entry, maxsplit=2)[:2]
        found[package] = version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
    return found


@pytest.mark.parametrize("name", [*EXTRAS, "cuda"])
def test_every_pin_has_its_hashes_and_one_version_everywhere(name: str) -> None:
    everything = pins("dev") | {"onnxruntime-gpu": pins("cuda")["onnxruntime-gpu"]}
    found = pins(name)
    assert found
    assert [package for package, (_, hashes) in found.items() if not hashes] == []
    assert {package: version for package, (version, _) in found.items()}.items() <= {
        package: version for package, (version, _) in everything.items()
    }.items()


@pytest.mark.parametrize(("name", "extras"), EXTRAS.items())
def test_every_requirement_is_locked_in_a_version_that_it_allows(name: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [project["project"]["dependencies"], project["build-system"]["requires"]]
    lists += [project["project"]["optional-dependencies"][extra] for extra in extras]
    locked = pins(name)
    for requirement in map(Requirement, itertools.chain.from_iterable(lists)):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement}: {name}.txt has {version}; run `make lock`"


def test_serving_installs_nothing_that_trains() -> None:
    assert not pins("serving").keys() & {"torch", "pyspark", "pandas", "scipy", "scikit-learn", "pytest"}


def test_images_of_others_are_pinned_by_digest() -> None:
    files = [*(ROOT / "infra" / "deploy").rglob("*.yaml")]
    named = {
        image for file in files for image in re.findall(r'\bimage: *"?([^\s"},]+)', file.read_text("utf-8"))
    }
    docker = (ROOT / "infra" / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", docker, re.MULTILINE))
    named |= set(re.findall(r"^FROM (\S+)", docker, re.MULTILINE)) - stages - {"python:${PYTHON}"}
    named |= set(re.findall(r"^ARG PYTHON=(\S+)", docker, re.MULTILINE))
    foreign = {image for image in named if not image.startswith("recsys:")} - BY_TAG
    assert len(foreign) >= 6
    assert [image for image in foreign if not re.search(r"@sha256:[0-9a-f]{64}$", image)] == []


def test_hosted_actions_are_pinned_by_commit() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.slow
def test_the_bill_of_materials_names_every_pin_with_its_hashes(tmp_path: Path) -> None:
    script = [str(ROOT / "infra" / "setup" / "sbom.sh"), str(tmp_path), "serving"]
    subprocess.run(script, env=os.environ | {"PYTHON": sys.executable}, check=True, capture_output=True)
    content = json.loads((tmp_path / "serving.json").read_text(encoding="utf-8"))
    assert content["bomFormat"] == "CycloneDX"
    assert content["metadata"]["component"]["name"] == "recsys-reference"
    found = {
        component["name"]: (
            component["version"],
            sorted(
                each["content"]
                for reference in component["externalReferences"]
                for each in reference.get("hashes", [])
            ),
        )
        for component in content["components"]
    }
    assert found == {name: (version, sorted(hashes)) for name, (version, hashes) in pins("serving").items()}
