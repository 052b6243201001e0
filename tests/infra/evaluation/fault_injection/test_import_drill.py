"""Imports of damaged files, with the damages of `recsys drill import`, one on top of the other."""

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.evaluation.fault_injection.hostile.attacks import Broken
from infra.evaluation.fault_injection.imports import _BEFORE, accounting, replacing
from infra.evaluation.fault_injection.imports.accounting import Damaged, check
from infra.evaluation.fault_injection.imports.damage import PARQUET, TEXT
from infra.evaluation.fault_injection.imports.loaders import LOADERS, Loader
from recsys.datasets import rows

TEXTS = [loader for loader in LOADERS if not loader.is_parquet]
LOADER = {loader.name: loader for loader in LOADERS}


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.sampled_from(TEXTS), st.lists(st.sampled_from(sorted(TEXT)), min_size=1, max_size=3), st.integers())
def test_every_row_is_kept_or_rejected_and_nothing_older_is_lost(
    loader: Loader, damages: list[str], seed: int
) -> None:
    lines, content = loader.lines(), b""
    for damage in damages:
        content = TEXT[damage](lines, loader.format, Random(seed))
        lines = content.split(b"\n")[:-1] or [b""]
    with tempfile.TemporaryDirectory() as folder:
        check(loader, Damaged.of_text(loader, content), Path(folder))


@pytest.mark.parametrize("damage", ["Parquet with nulls", "Parquet with flipped bytes"])
def test_parquet_files(damage: str, tmp_path: Path) -> None:
    assert accounting.run(damage, tmp_path)


def test_sources_and_the_api(tmp_path: Path) -> None:
    assert replacing.another_source(tmp_path / "sources")
    assert replacing.older_than_the_api(tmp_path / "api")


@pytest.mark.slow
def test_an_import_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "_STRIDE", 20)
    assert "killed at" in replacing.killed(tmp_path)


def test_the_drill_sees_rows_that_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallowed(lines: list[str], _delimiter: str, _width: int) -> bool:
        return False

    loader, damage = LOADER["mapping, CSV"], "a quote that closes in a later row"
    damaged = Damaged.of_text(loader, TEXT[damage](loader.lines(), loader.format, Random(1)))
    monkeypatch.setattr("recsys.datasets.replacing.refuse_losses", lambda *_: None)
    monkeypatch.setattr("recsys.datasets.importer.refuse_losses", lambda *_: None)
    check(loader, damaged, tmp_path / "held")
    monkeypatch.setattr(rows, "_swallowed", swallowed)
    with pytest.raises(Broken, match="sound rows are neither kept nor rejected"):
        check(loader, damaged, tmp_path / "broken")


def test_the_control_names_damages_that_there_are() -> None:
    assert _BEFORE.keys() <= TEXT.keys() | PARQUET.keys()
