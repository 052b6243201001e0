"""The headline evaluation on a tiny slice: the product's own examples, its ladder, figures of the exported model."""

from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidData
from recsys.features.definitions import FEATURES
from recsys.result import Result
from tests.training.evaluation.kuairand_slice import write_slice
from training.compression import ladder
from training.evaluation import lake
from training.evaluation.kuairand import served
from training.evaluation.kuairand.log import load
from training.evaluation.kuairand.served import in_log_order, main
from training.evaluation.ranking.examples import ServedRanker
from training.ranker.dataset import RankExamples

pytestmark = pytest.mark.slow  # a Spark job and a ladder

Evaluated = tuple[ServedRanker, Result, list[str]]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder, lines = tmp_path_factory.mktemp("served"), list[str]()
    write_slice(folder / "data")
    config = ServedRanker(data=folder / "data", work=folder / "work", master="local[1]", memory="1g").quick()
    return config, main(config, lines.append), lines


@pytest.mark.timeout(600)
def test_the_served_variant_is_judged_next_to_its_baselines(evaluated: Evaluated) -> None:
    _, result, lines = evaluated
    for model in ("served", "teacher", "lightgbm", "lightgbm_published"):
        for figure in ("click_auc", "click_gauc", "long_view_auc", "like_auc", "dwell_xauc"):
            assert 0.3 < result.figures[f"{model}_{figure}"] < 1, (model, figure)
    assert result.figures["lightgbm_click_auc"] > 0.6  # videos and users differ
    assert result.figures["served_mb"] <= result.figures["teacher_mb"]
    interval = [result.figures[f"served_over_lightgbm_click_auc{end}"] for end in ("_low", "", "_high")]
    assert interval == sorted(interval)
    assert any(f"{FEATURES.dimension} served features" in line for line in lines)
    assert lines[-1].startswith("next: ")


@pytest.mark.timeout(600)
def test_an_interrupted_evaluation_repeats_no_finished_step(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result, _ = evaluated

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("repeated")

    monkeypatch.setattr(lake, "import_dataset", fail)
    monkeypatch.setattr(served, "trees", fail)
    monkeypatch.setattr(ladder, "main", fail)
    assert main(config).figures == result.figures


def test_examples_and_log_must_be_of_the_same_impressions(tmp_path: Path) -> None:
    write_slice(tmp_path)
    log = load(tmp_path)
    n = len(log.users)
    ids = sorted({str(video) for video in log.videos})
    order = np.lexsort((log.videos.astype(str), log.users.astype(str), log.time_ms))
    numbers = np.array([ids.index(str(video)) + 1 for video in log.videos[order]])
    rows = RankExamples(
        history=np.zeros((n, 1), np.int32),
        types=np.zeros((n, 1), np.int8),
        gaps=np.zeros((n, 1), np.int8),
        items=numbers,
        features=order[:, None].astype(np.float32),
        position=np.zeros(n, np.int64),
        labels=np.zeros((n, 4), np.float32),
        users=log.users[order],
        time_ms=log.time_ms[order],
    )
    found = in_log_order(rows, ids, log)
    np.testing.assert_array_equal(found.features[:, 0], np.arange(n))
    np.testing.assert_array_equal(found.users, log.users)
    with pytest.raises(InvalidData, match="do not fit"):
        in_log_order(rows.take(slice(1, None)), ids, log)
