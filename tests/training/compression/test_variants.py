"""Publishing is gated: a variant that lost quality is refused with the reason, whatever way it takes to a bundle."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData
from recsys.features.drift import HISTOGRAMS
from recsys.ranking.compiled import KERNEL
from recsys.ranking.uncertainty import UNCERTAINTY
from tests.training.ranker.rank_fixture import N_FEATURES, write_world
from training import publish
from training.compression.ladder import LadderConfig
from training.compression.ladder_input import lake_input
from training.compression.variants import Variant, candidate, check_publishable, read_variant, take
from training.publish import PublishConfig
from training.ranker.artifacts import ONNX, VARIANT, read_shape


def variant_folder(folder: Path, *reasons: str, gated: bool = True) -> Path:
    folder.mkdir(parents=True)
    variant = Variant("int8", 2, {"click_auc": 0.7}, 1.0, reasons, gated)
    (folder / VARIANT).write_text(json.dumps(asdict(variant)), encoding="utf-8")
    for name in (ONNX, "calibration.json", "golden.safetensors", "summary.json"):
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def test_a_spoiled_variant_is_not_published(tmp_path: Path) -> None:
    folder = variant_folder(tmp_path / "int8", "click: AUC fell by 0.0100")
    config = PublishConfig(lake=tmp_path, two_tower=tmp_path, ranker=folder, bundles=tmp_path / "bundles")
    with pytest.raises(InvalidBundle, match="int8 is refused: click: AUC fell by 0.0100"):
        publish.main(config)
    assert not (tmp_path / "bundles").exists()
    with pytest.raises(InvalidBundle, match="AUC fell"):
        take(folder, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_comparison_is_not_published_either(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="comparison"):
        check_publishable(variant_folder(tmp_path / "unstructured", gated=False))


def test_a_variant_that_passed_becomes_the_ranker(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "old").write_text("of another model", encoding="utf-8")
    variant = variant_folder(tmp_path / "int8")
    (variant / HISTOGRAMS).write_text("[]", encoding="utf-8")
    take(variant, work)
    assert {p.name for p in work.iterdir()} == {
        VARIANT,
        ONNX,
        "calibration.json",
        "golden.safetensors",
        "summary.json",
        HISTOGRAMS,
    }
    assert read_variant(work).reasons == ()
    for name in (KERNEL, UNCERTAINTY):
        (variant / name).write_bytes(b"learnt")
    take(variant, work)
    assert (work / KERNEL).read_bytes() == (work / UNCERTAINTY).read_bytes() == b"learnt"


def test_a_variant_that_lacks_a_file_leaves_the_ranker_as_it_was(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "old").write_text("of another model", encoding="utf-8")
    with pytest.raises(InvalidBundle, match=f"lacks {HISTOGRAMS}"):
        take(variant_folder(tmp_path / "int8"), work)
    assert [p.name for p in work.iterdir()] == ["old"]


def test_a_ranker_that_is_no_variant_has_no_gate(tmp_path: Path) -> None:
    check_publishable(tmp_path)
    with pytest.raises(InvalidData, match="train ladder"):
        read_variant(tmp_path)


def test_the_candidate_is_the_smallest_that_passed_or_the_smallest_refused() -> None:
    teacher = Variant("teacher", 9, {}, 1.0, ())
    student, int8 = Variant("student", 5, {}, 1.0, ("a",)), Variant("int8", 2, {}, 1.0, ("b",))
    assert candidate([teacher, student, int8]).name == "int8"
    assert candidate([teacher, student, int8]).reasons
    assert candidate([teacher, Variant("student", 5, {}, 1.0, ()), int8]).name == "student"


def test_shapes_are_read_back_or_refused(tmp_path: Path) -> None:
    shape = LadderConfig(out=tmp_path).student
    (tmp_path / "shape.json").write_text(json.dumps(asdict(shape)), encoding="utf-8")
    assert read_shape(tmp_path / "shape.json") == shape
    (tmp_path / "shape.json").write_text('{"widht": 3}', encoding="utf-8")
    with pytest.raises(InvalidConfig, match="widht"):
        read_shape(tmp_path / "shape.json")


def test_the_lakes_examples_are_cut_by_time(tmp_path: Path) -> None:
    write_world(tmp_path)
    shapes = LadderConfig(out=tmp_path)
    found = lake_input(
        tmp_path / "examples",
        tmp_path / "items" / "items.parquet",
        N_FEATURES,
        6,
        shapes.teacher,
        shapes.student,
    )
    parts = (found.train, found.validation, found.test)
    assert [len(part) for part in parts] == [3_000, 400, 600]
    times = np.concatenate([part.time_ms for part in parts])
    assert (np.diff(times) >= 0).all()
    assert found.teacher_data.n_items == found.student_data.n_items == 40
