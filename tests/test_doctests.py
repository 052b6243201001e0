"""The examples in the docstrings run: every module of the product that has some."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for name in ("recsys", "streaming", "serving", "training", "infra") for p in (ROOT / name).rglob("*.py")
)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in SOURCES
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_examples_are_found() -> None:
    assert {"recsys.metrics", "recsys.contracts.events", "recsys.features.windows", "recsys.files"} <= {
        *MODULES
    }
    assert len(MODULES) >= 20


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted, f"{name} has no examples"
    assert not results.failed
