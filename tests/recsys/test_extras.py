"""A package of an extra is found by the name that is imported, and named with the command that installs it."""

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recsys import extras
from recsys.contracts.errors import MissingExtra
from recsys.extras import extra_named, extra_of, packages_of, require

ROOT = Path(__file__).parents[2]
OURS = ("recsys", "streaming", "serving", "training", "infra")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def imported_modules() -> set[str]:
    """Top-level modules of others that our code imports, wherever in it."""
    found: set[str] = set()
    for file in (file for package in OURS for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(OURS) - sys.stdlib_module_names


def test_an_extra_has_the_packages_that_pyproject_says() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        assert packages_of(extra) == {canonicalize_name(Requirement(each).name) for each in requirements}
    assert packages_of("nothing") == frozenset()


def test_an_imported_module_is_found_by_its_extra() -> None:
    distributions = metadata.packages_distributions()
    for module in imported_modules():
        of = {canonicalize_name(name) for name in distributions.get(module, [])}
        having = [extra for extra in PROJECT["optional-dependencies"] if of & packages_of(extra)]
        required = of & {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]}
        assert required or not having or extra_of(module) in having, module


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", lambda extra: extra not in ("train", "spark"))
    with pytest.raises(MissingExtra) as raised, extra_named("RECSYS_X"):
        raise ModuleNotFoundError("No module named 'sklearn.isotonic'", name="sklearn.isotonic")
    assert str(raised.value) == "RECSYS_X needs sklearn.isotonic: pip install 'recsys-reference[train]'"
    with pytest.raises(
        MissingExtra, match=r"train and spark: pip install 'recsys-reference\[train,spark\]'$"
    ):
        require("train", "otel", "spark")
    require("otel")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'recsys.nothing'", name="recsys.nothing"),
        ModuleNotFoundError("No module named 'torch.nothing'", name="torch.nothing"),  # torch is installed
        ImportError("cannot import name 'nothing' from 'torch'", name="torch"),
    ],
    ids=str,
)
def test_other_failed_imports_stay_what_they_are(error: ImportError) -> None:
    with pytest.raises(ImportError) as raised, extra_named():
        raise error
    assert raised.value is error
