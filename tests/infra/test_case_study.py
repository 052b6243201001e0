"""The case study: every promised row is there, what is not measured says so, deterministic figures agree."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from infra.case_study.models import models
from infra.case_study.rows import PROMISES, Measured, Promise, table
from infra.case_study.study import CaseStudy, run
from recsys.errors import InvalidData
from recsys.features.definitions import FEATURES
from tests.bundles import ranker_model, tiny_vectors
from training.rungs import ONNX, RUNG, RUNGS, Rung

DETERMINISTIC = ("model_size_before", "model_size_after", "storage_before", "storage_after")


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """A teacher and a served rung that are the same formula with more and fewer items."""
    for name, items in (("teacher", 30_000), (RUNGS[-1], 1_000)):
        folder = tmp_path / "ladder" / name
        folder.mkdir(parents=True)
        (folder / ONNX).write_bytes(ranker_model(tiny_vectors(items), FEATURES.dimension))
        rung = Rung(name, (folder / ONNX).stat().st_size, {"click_auc": 0.7}, 1.0, ())
        (folder / RUNG).write_text(json.dumps(asdict(rung)), encoding="utf-8")
    return tmp_path / "ladder"


def study(ladder: Path, out: Path) -> CaseStudy:
    return CaseStudy(ladder, out, seed=3, users=60, items=80, days=2, candidates=20, calls=3)


def test_every_row_is_there_and_nothing_unmeasured_looks_met(ladder: Path, tmp_path: Path) -> None:
    result = run(study(ladder, tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in content["rows"]] == [promise.row for promise in PROMISES]
    measured = {row["row"] for row in content["rows"] if row["met"] is not None}
    assert measured == {"model_size", "storage"}
    assert result.figures["rows_not_measured"] == len(PROMISES) - 2
    assert not result.met
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.count("not measured") == len(PROMISES) - 2
    assert "<table>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert content["hardware"]["cores"] > 0
    assert content["figures"] == dict(result.figures)


def test_two_runs_of_a_seed_agree_on_every_deterministic_figure(ladder: Path, tmp_path: Path) -> None:
    first, second = (run(study(ladder, tmp_path / name)).figures for name in ("a", "b"))
    assert all(first[name] == second[name] for name in DETERMINISTIC)
    assert first["storage_change"] < -0.5
    assert first["storage_against_json_with_gzip_change"] > first["storage_change"]
    assert first["model_size_change"] < -0.9


def test_what_the_gates_refused_makes_nothing_smaller(ladder: Path) -> None:
    path = ladder / RUNGS[-1] / RUNG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"reasons": ["spoiled"]}))
    size, _ = models(ladder, candidates=20, calls=1)
    assert size.before == size.after
    assert "spoiled" in size.how


def test_a_row_is_met_in_its_own_direction() -> None:
    less, more = Promise("a", -0.3, -0.5, ""), Promise("b", 9.0, 24.0, "")
    assert Measured("a", 100, 50, "", "").met(less)
    assert not Measured("a", 100, 51, "", "").met(less)
    assert Measured("b", 1, 25, "", "").met(more)
    assert not Measured("b", 1, 24, "", "").met(more)
    assert {row["how"] for row in table({})} == {"not measured"}


def test_without_a_ladder_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recsys train ladder"):
        run(study(tmp_path / "none", tmp_path / "out"))
