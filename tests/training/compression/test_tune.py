"""The search of the student on a small world: limits hold, an interrupted study goes on, the front is a front."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.models.ranker import RankerConfig
from recsys.result import Result
from tests.training.compression.ladder_fixture import LOOP as ONE_EPOCH
from tests.training.compression.ladder_fixture import SMALL, config
from training.compression import tune as tune_rank
from training.compression.ladder_input import LadderInput, synthetic_input
from training.compression.tune import RankTuning, Tried, front, main
from training.ranker.artifacts import read_shape

LOOP = ONE_EPOCH.replace(epochs=3)  # a start that is better than chance whatever the random start


@pytest.fixture(scope="module")
def world() -> LadderInput:
    shapes = config(Path())
    return synthetic_input(SMALL, shapes.teacher, shapes.student)


@pytest.fixture(scope="module")
def tuned(world: LadderInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    home = tmp_path_factory.mktemp("tune")
    tuning = RankTuning(out=home / "tune", trials=2, max_mb=5, max_ms=1_000, loop=LOOP)
    return home, main(tuning, config(home / "ladder"), world)


@pytest.mark.slow
def test_the_search_starts_from_the_ladders_student_and_keeps_the_best(tuned: tuple[Path, Result]) -> None:
    home, result = tuned
    assert result.met
    figures = result.figures
    assert figures["trials"] == figures["within_limits"] == 2
    assert figures["best_score"] >= figures["start_score"] > 0.5
    assert {"pareto.svg", "student.json", "study.log"} <= {p.name for p in (home / "tune").iterdir()}
    shape = read_shape(home / "tune" / "student.json")
    assert isinstance(shape, RankerConfig)
    assert shape.item_buckets > 0
    assert json.loads((home / "ladder" / "teacher" / "shape.json").read_text())["attention"] == "din"


@pytest.mark.slow
def test_a_finished_study_trains_nothing_again(
    tuned: tuple[Path, Result], world: LadderInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, result = tuned

    def fail(*_: object, **__: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(tune_rank, "fit", fail)
    tuning = RankTuning(out=home / "tune", trials=2, max_mb=5, max_ms=1_000, loop=LOOP)
    assert main(tuning, config(home / "ladder"), world).figures == result.figures


@pytest.mark.slow
def test_a_shape_beyond_a_limit_is_not_trained(
    tuned: tuple[Path, Result], world: LadderInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = tuned

    def fail(*_: object, **__: object) -> int:
        raise AssertionError("trained although too large")

    monkeypatch.setattr(tune_rank, "fit", fail)
    tuning = RankTuning(out=tmp_path, trials=1, max_mb=0.001, max_ms=1_000, loop=LOOP)
    result = main(tuning, config(home / "ladder"), world)
    assert result.figures["within_limits"] == 0
    assert not result.met  # NaN meets nothing
    assert not (tmp_path / "student.json").exists()


def test_the_front_holds_what_no_other_beats() -> None:
    def tried(ms: float, score: float) -> Tried:
        return Tried(RankerConfig(), score, 1.0, ms)

    found = front([tried(2, 0.7), tried(1, 0.6), tried(3, 0.65), tried(1, 0.5), tried(4, 0.8)])
    assert [(t.ms, t.score) for t in found] == [(1, 0.6), (2, 0.7), (4, 0.8)]


def test_proposals_stay_within_the_choices() -> None:
    import optuna

    base = replace(config(Path()).student, item_buckets=0)
    trial = optuna.trial.FixedTrial(
        {
            "hidden": 32,
            "layers": 1,
            "width": 8,
            "attention_heads": 2,
            "curve_width": 0,
            "cross_layers": 0,
            "cross_rank": 8,
            "experts": 2,
            "dropout": 0.1,
        }
    )
    shape = tune_rank.propose(trial, base)  # type: ignore[arg-type]
    assert (shape.item_buckets, shape.expert_layers, shape.cross_layers) == (0, (32,), 0)
