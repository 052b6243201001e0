"""The case study: every promised row is there, what is not measured says so, deterministic figures agree."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from infra.evaluation.case_study.models import Models
from infra.evaluation.case_study.networks import ids_for
from infra.evaluation.case_study.rows import PROMISES, Measured, Promise, table
from infra.evaluation.case_study.section import Found, Sheet, measure_all
from infra.evaluation.case_study.storage import Lake
from infra.evaluation.case_study.study import STORED, CaseStudy, run
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.features.definitions import FEATURES
from tests.bundles import ranker_model, tiny_vectors
from training.compression.variants import VARIANTS, Variant
from training.ranker.artifacts import ONNX, VARIANT


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """A teacher and a served variant that are the same formula with more and fewer items."""
    for name, items in (("teacher", 30_000), (VARIANTS[-1], 1_000)):
        folder = tmp_path / "ladder" / name
        folder.mkdir(parents=True)
        (folder / ONNX).write_bytes(ranker_model(tiny_vectors(items), FEATURES.dimension))
        variant = Variant(name, (folder / ONNX).stat().st_size, {"click_auc": 0.7}, 1.0, ())
        (folder / VARIANT).write_text(json.dumps(asdict(variant)), encoding="utf-8")
    return tmp_path / "ladder"


def _models(ladder: Path, calls: int) -> Models:
    return Models(ladder, ladder.parent / "networks", 3, candidates=20, calls=calls)


def study(ladder: Path, out: Path) -> CaseStudy:
    return CaseStudy(out, 3, [_models(ladder, 3), Lake(3, users=60, items=80, days=2)])


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
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<table>" in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page  # self-contained
    assert content["hardware"]["cores"] > 0
    assert content["figures"] == dict(result.figures)


def test_two_runs_of_a_seed_agree_on_every_deterministic_figure(ladder: Path, tmp_path: Path) -> None:
    exact = []
    for name in ("a", "b"):
        figures = run(study(ladder, tmp_path / name)).figures
        rows = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))["rows"]
        exact.append({row["row"]: (row["before"], row["after"]) for row in rows if row["exact"]})
    assert exact[0] == exact[1]
    assert exact[0].keys() >= {"model_size", "storage"}
    assert figures["storage_change"] < -0.5
    assert figures["storage_against_json_with_gzip_change"] > figures["storage_change"]
    assert figures["model_size_change"] < -0.9


@dataclass(frozen=True)
class Counted:
    """A section that counts how often it is measured."""

    name: ClassVar[str] = "counted"
    log: Path
    size: int

    def measure(self) -> Found:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{self.size}\n")
        row = Measured("ctr", 1.0, 1.5, "share", "counted", interval=(0.4, 0.6), simulated=True)
        return Found([row], [Sheet("a table", ["x"], [["y"], [2.0]])], {"n": [1]})


def test_an_interrupted_study_resumes_and_a_finished_one_starts_from_scratch(tmp_path: Path) -> None:
    log, stored = tmp_path / "log", tmp_path / "out" / STORED
    first = measure_all([Counted(log, 1)], stored)
    assert measure_all([Counted(log, 1)], stored) == first
    assert log.read_text() == "1\n"
    measure_all([Counted(log, 2)], stored)  # another configuration
    assert log.read_text() == "1\n2\n"
    run(CaseStudy(tmp_path / "out", 0, [Counted(log, 2)]))
    assert log.read_text() == "1\n2\n"
    run(CaseStudy(tmp_path / "out", 0, [Counted(log, 2)]))
    assert log.read_text() == "1\n2\n2\n"
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "*simulated*; counted" in report
    assert "+50.0% (+40.0% … +60.0%)" in report
    assert "## a table" in report


def test_what_the_gates_refused_makes_nothing_smaller(ladder: Path) -> None:
    path = ladder / VARIANTS[-1] / VARIANT
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"reasons": ["spoiled"]}))
    size, _ = _models(ladder, 1).measure().rows
    assert size.before == size.after
    assert "spoiled" in size.how


def test_a_row_is_met_in_its_own_direction() -> None:
    less, more = Promise("a", -0.3, -0.5, ""), Promise("b", 9.0, 24.0, "")
    assert Measured("a", 100, 50, "", "").met(less)
    assert not Measured("a", 100, 51, "", "").met(less)
    assert Measured("b", 1, 25, "", "").met(more)
    assert not Measured("b", 1, 24, "", "").met(more)
    wide = Measured("b", 1, 26, "", "", interval=(8.9, 40.0))
    assert not wide.met(more)  # what was promised is within the interval
    assert {row["how"] for row in table({})} == {"not measured"}


def test_a_ladder_without_a_teacher_is_refused(ladder: Path) -> None:
    (ladder / "teacher" / VARIANT).unlink()
    with pytest.raises(InvalidData, match="recsys train ladder"):
        _models(ladder, 1).measure()


def test_a_section_alone_is_a_part_of_the_study(tmp_path: Path) -> None:
    whole = CaseStudy(tmp_path / "out", 3, [_models(tmp_path, 3), Lake(3, users=60, items=80, days=2)])
    result = run(whole.only(["lake"]))
    assert result.figures["rows"] == 1
    assert result.figures["rows_not_measured"] == 0
    assert result.figures["storage_change"] < 0
    assert "not measured" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    with pytest.raises(InvalidConfig, match="no section lakes; there are models, lake"):
        whole.only(["lakes"])


@pytest.mark.parametrize("quick", [False, True])
def test_the_size_of_the_catalogue_is_that_of_each_section_that_serves_one(
    quick: bool, tmp_path: Path
) -> None:
    usual, large = (CaseStudy.of(tmp_path, tmp_path, 0, quick=quick, items=n) for n in (None, 1_000_000))
    changed = {
        section.name
        for section, other in zip(usual.sections, large.sections, strict=True)
        if section != other
    }
    assert changed == {"updates", "under_load", "steps"}
    assert ids_for(1_000_000) == 1_000_000 > ids_for(1_000) == ids_for(0) > 0
