"""The model benchmark on a tiny slice: every model is judged, scores are stored, no feature reads the future."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.result import Result
from tests.training.evaluation.kuairand_slice import write_slice
from training.evaluation.kuairand import benchmark as rank_benchmark
from training.evaluation.kuairand.benchmark import RankEvaluation, as_answers, of_network
from training.evaluation.kuairand.evaluate import main, train_in_parallel
from training.evaluation.kuairand.log import load
from training.evaluation.ranking.score_cache import ScoreCache

MODELS = (
    "lightgbm_baseline",
    "logistic",
    "lightgbm",
    "dcn_alone",
    "din_alone",
    "network",
    "din_network",
    "teacher",
    "student",
    "int8",
)


@pytest.fixture(scope="module")
def slice_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kuairand")
    write_slice(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(slice_: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RankEvaluation, Result]:
    loop = rank_benchmark.LOOP.replace(
        batch_size=128
    )  # steps enough to learn something in one epoch of 3,000 rows
    config = RankEvaluation(data=slice_, work=tmp_path_factory.mktemp("work"), is_quick=True, loop=loop)
    return config, main(config)


@pytest.mark.slow
def test_every_model_is_judged_on_every_head(evaluated: tuple[RankEvaluation, Result]) -> None:
    _, result = evaluated
    for model in MODELS:
        for figure in (
            "click_auc",
            "click_gauc",
            "long_view_auc",
            "long_view_gauc",
            "like_auc",
            "dwell_xauc",
        ):
            assert 0.4 < result.figures[f"{model}_{figure}"] < 1, (model, figure)
    assert result.figures["lightgbm_click_auc"] > 0.6  # videos and users differ
    interval = [
        result.figures[f"teacher_over_lightgbm_baseline_click_gauc{end}"] for end in ("_low", "", "_high")
    ]
    assert interval == sorted(interval)
    assert abs(result.figures["int8_click_auc"] - result.figures["student_click_auc"]) < 0.02


@pytest.mark.slow
def test_an_interrupted_evaluation_trains_nothing_twice(
    evaluated: tuple[RankEvaluation, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = evaluated

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    for name in ("fit", "trees", "logistic_regression"):
        monkeypatch.setattr(rank_benchmark, name, fail)
    assert main(config).figures == result.figures


def _figures(config: RankEvaluation) -> tuple[dict[str, float], list[str]]:
    """What an evaluation measures and reports."""
    lines: list[str] = []
    return dict(main(config, lines.append).figures), lines


@pytest.mark.slow
def test_models_trained_in_parallel_are_the_same(
    evaluated: tuple[RankEvaluation, Result], tmp_path: Path
) -> None:
    config, result = evaluated
    # in a process of its own: torch cannot fork once this one's autograd threads have started
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        figures, lines = pool.submit(_figures, config.replace(work=tmp_path, processes=2)).result()
    assert figures == result.figures
    assert any(line.startswith("stage 2 of 2: 1 of 1") for line in lines)


def test_several_processes_need_a_folder(slice_: Path) -> None:
    with pytest.raises(InvalidConfig, match="work"):
        main(RankEvaluation(data=slice_, processes=2))


def test_a_training_process_that_is_killed_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    lines: list[str] = []
    first = [(tmp_path / name).touch for name in "abc"]
    with pytest.raises(InvalidConfig, match="fewer"):
        train_in_parallel([first, [killed, *first]], 2, lines.append)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
    assert lines == [f"stage 1 of 2: {n} of 3 trained" for n in (1, 2, 3)]


def test_scores_are_stored_by_what_they_depend_on(tmp_path: Path) -> None:
    calls = []

    def compute() -> list[dict[str, np.ndarray]]:
        calls.append(1)
        return [{"click": np.array([1.0, 2.0])}, {"click": np.array([3.0])}]

    first = ScoreCache(tmp_path, about="data")("model", 1, compute)
    again = ScoreCache(tmp_path, about="data")("model", 1, compute)
    assert len(calls) == 1
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["click"], b["click"])
    ScoreCache(tmp_path, about="data")("model", 2, compute)
    ScoreCache(tmp_path, about="other data")("model", 1, compute)
    assert len(calls) == 3


def test_features_do_not_look_ahead(slice_: Path, tmp_path: Path) -> None:
    """Turning round every answer of the last day changes no feature of that day's first row, nor of any before."""
    whole = load(slice_)
    write_slice(tmp_path)
    test = pd.read_parquet(tmp_path / "test.parquet")
    last = test["date"] == test["date"].max()
    for column in ("is_click", "is_like", "long_view"):
        test.loc[last, column] = 1 - test.loc[last, column]
    test.to_parquet(tmp_path / "test.parquet")
    changed = load(tmp_path)
    first = int(np.flatnonzero(changed.date == changed.date.max())[0])
    for name in whole.names():
        before, after = (data.features[name][: first + 1] for data in (whole, changed))
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_profile_is_frozen_in_the_test(slice_: Path) -> None:
    data = load(slice_)
    frame = pd.DataFrame({"user": data.users, "date": data.date, "rate": data.features["u_c"]})
    assert (frame[frame["date"] >= 20220504].groupby("user")["rate"].nunique() == 1).all()


def test_a_long_view_is_a_click_and_its_conversion() -> None:
    rng = np.random.default_rng(0)
    logits = {head: rng.normal(size=50) for head in ("click", "like", "dwell")}
    logits["long_view"] = logits["click"] - rng.uniform(0.5, 2, 50)  # rarer than clicks
    found = of_network(as_answers(logits))
    for head, values in logits.items():
        np.testing.assert_allclose(found[head], values, atol=1e-4, err_msg=head)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"val\.parquet"):
        load(tmp_path)
