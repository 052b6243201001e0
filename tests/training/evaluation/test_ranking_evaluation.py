"""`recsys evaluate rank` on any log: planted data for the baselines, and one run on a simulated shop."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.datasets.catalogue import items_path
from recsys.items.item_table import read_items
from recsys.lake.lake import EVENTS, day_writer, days, events_table, read_day, write_parquet
from recsys.metrics import auc
from recsys.result import Result
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import WorldConfig, create_world
from training.evaluation import lake as evaluated_lake
from training.evaluation.ranking import evaluate
from training.evaluation.ranking.baselines import FOREST, logistic_regression, smoothed_rates, trees
from training.evaluation.ranking.evaluate import (
    TemporalEvaluation,
    constant_heads,
    goals,
    main,
    too_few,
    undefined,
)
from training.evaluation.ranking.periods import Periods, is_shown, read_periods, requests
from training.evaluation.ranking.split import PERIODS, TimeSplit


def test_rates_are_shrunk_to_the_mean() -> None:
    """Three rows of item 1, all clicked, one of item 2, not clicked; nothing of item 3."""
    found = smoothed_rates(
        np.array([1, 1, 1, 2]), {"click": np.array([1.0, 1, 1, 0])}, np.array([1, 2, 3, 0])
    )["click"]
    rates = 1 / (1 + np.exp(-found))
    assert rates.tolist() == pytest.approx([(3 + 15) / 23, 15 / 21, 0.75, 0.75])


def test_baselines_find_what_was_planted() -> None:
    """Clicks follow feature 0 linearly, and feature 1 by its size alone, which only trees see."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6_000, 4)).astype(np.float32)
    x[:, 3] = 7.0  # a constant column
    log_odds = x[:, 0] + 3 * (np.abs(x[:, 1]) - 0.8)
    click = (rng.random(6_000) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
    train, validation, test = slice(0, 4_000), slice(4_000, 5_000), slice(5_000, None)
    labels = [{"click": click[part]} for part in (train, validation, test)]
    linear = logistic_regression(x[train], labels[0], [x[test]])[0]["click"]
    forest = trees(x[train], labels[0], x[validation], labels[1], [x[test]], FOREST.replace(columns=1.0))[0]
    best = auc(labels[2]["click"].astype(int), log_odds[test])
    of_line, of_trees = (auc(labels[2]["click"].astype(int), s) for s in (linear, forest["click"]))
    assert 0.55 < of_line < best - 0.1
    assert best - 0.03 < of_trees < best


def test_a_list_is_a_request_or_an_instant_of_a_user() -> None:
    rows = pa.table(
        {
            "user_id": ["a", "a", "a", "b", "a", "a", "b"],
            "request_id": ["r", "r", "s", "r", None, None, None],
            "event_time_ms": [1, 2, 1, 1, 5, 5, 5],
        }
    )
    found = requests(rows)
    assert [int((found == code).sum()) for code in found] == [2, 2, 1, 1, 2, 2, 1]
    assert found[0] == found[1]
    assert found[4] == found[5]


def test_only_impressions_of_the_log_are_shown(tmp_path: Path) -> None:
    log = [
        Event("e1", EventType.IMPRESSION, "a", "x", 1_000),
        Event("e1", EventType.RATING, "b", "x", 1_000, value=4.0),  # ids are unique per user
        Event("e2", EventType.RATING, "a", "y", 2_000, value=4.0),
    ]
    with day_writer(tmp_path, EVENTS, "test") as writer:
        writer.write(events_table(log))
    rows = pa.table(
        {
            "user_id": ["a", "b", "a", "a"],
            "example_id": ["e1", "e1", "e2", "e2-0"],
            "event_time_ms": [1_000, 1_000, 2_000, 2_000],
        }
    )
    assert is_shown(rows, tmp_path).tolist() == [True, False, False, False]


def test_a_head_with_one_label_in_a_period_is_not_measured() -> None:
    both, none, every = np.array([0.0, 1.0]), np.zeros(2), np.ones(2)
    found = constant_heads(
        {
            "train": {"click": both, "like": both, "conversion": both},
            "test": {"click": both, "like": none, "conversion": every},
        }
    )
    assert list(found) == ["like", "conversion"]
    assert "no row of the test period" in found["like"]
    assert "all rows of the test period" in found["conversion"]


def test_undefined_figures_are_named() -> None:
    figures = {"served_click_gauc": 0.6, "served_like_ndcg10": 0.6}
    notes = " ".join(undefined(figures, ["click", "like"]))
    assert "click_ndcg10: not measured" in notes
    assert "like_gauc: not measured" in notes
    assert "click_gauc" not in notes


def test_a_small_test_is_warned_of_and_has_no_goals() -> None:
    assert not too_few({"test_rows": 200.0, "test_clicks": 50.0})
    for rows, clicks in ((199.0, 50.0), (200.0, 49.0)):
        assert "warning" in too_few({"test_rows": rows, "test_clicks": clicks})[0]


def test_goals_are_the_best_rivals() -> None:
    figures = {
        f"{model}_click_auc": value
        for model, value in (("served", 0.7), ("lightgbm", 0.6), ("logistic", 0.65))
    }
    figures |= {"popularity_click_auc": 0.55, "position_click_auc": 0.9, "test_clicks": 60.0}
    figures |= {"served_click_log_loss": 0.3, "prior_click_log_loss": 0.4}
    found = goals(figures)
    assert {name: goal.value for name, goal in found.items()} == {
        "served_click_auc": 0.65,
        "served_click_log_loss": 0.4,
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[TemporalEvaluation, Result]:
    folder = tmp_path_factory.mktemp("rank")
    world = create_world(WorldConfig(users=50, items=60, days=10, start_ms=1_700_000_000_000))
    write_history(world, folder / "lake", HistoryConfig(days=3))
    config = TemporalEvaluation(
        data=folder / "lake", work=folder / "work", master="local[1]", memory="1g"
    ).quick()
    return config, main(config)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(600)
def test_a_lake_is_judged_next_to_its_baselines(evaluated: tuple[TemporalEvaluation, Result]) -> None:
    _, result = evaluated
    figures = result.figures
    rows = figures["train_rows"] + figures["validation_rows"] + figures["test_rows"]
    assert figures["train_rows"] / rows == pytest.approx(0.8, abs=0.02)
    assert 5 < figures["test_rows"] / figures["test_lists"] <= 10  # lists of ten
    assert all(map(math.isfinite, figures.values()))
    for model in ("served", "lightgbm", "logistic", "popularity", "position", "prior"):
        for figure in ("auc", "gauc", "ndcg10", "log_loss", "calibration_error", "calibration_ratio"):
            assert f"{model}_click_{figure}" in figures, (model, figure)
    assert figures["position_click_auc"] > 0.55  # the first places are looked at most
    assert figures["prior_click_auc"] == 0.5
    assert figures["served_over_prior_click_auc"] == pytest.approx(figures["served_click_auc"] - 0.5)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(600)
def test_an_interrupted_evaluation_repeats_no_finished_step(
    evaluated: tuple[TemporalEvaluation, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = evaluated

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("repeated")

    monkeypatch.setattr(evaluated_lake, "import_dataset", fail)
    for step in ("trees", "logistic_regression", "train_as_served"):
        monkeypatch.setattr(evaluate, step, fail)
    assert main(config).figures == result.figures


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_the_newest_days_are_read_and_only_impressions_judged(
    evaluated: tuple[TemporalEvaluation, Result], tmp_path: Path
) -> None:
    config, result = evaluated
    items = read_items(items_path(config.data))

    def read(lake: Path, newest: int = 10**6) -> Periods:
        return read_periods(config.work / "features" / "examples", lake, items, TimeSplit(), newest, seed=0)

    whole, newest = read(config.data), read(config.data, newest=100)
    rows = {period: len(own) for period, own in whole.rows.items()}
    assert [rows[period] for period in PERIODS] == [result.figures[f"{period}_rows"] for period in PERIODS]
    assert (whole.not_read, whole.not_shown, whole.impressions) == (0, 0, True)
    assert (
        100
        <= sum(map(len, newest.rows.values()))
        == sum(rows.values()) - newest.not_read
        < sum(rows.values())
    )
    for periods in (whole, newest):
        times = [periods.rows[period].time_ms for period in PERIODS]
        assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()

    day = days(config.data)[-1]
    events = read_day(config.data, day)
    shown = np.asarray(pc.equal(events["type"], EventType.IMPRESSION))
    half = events.filter(pa.array(~shown | (np.cumsum(shown) % 2 == 0)))
    write_parquet(tmp_path / EVENTS / f"dt={day}" / "part.parquet", half)
    other = read(tmp_path)
    assert len(other.rows["test"]) + other.not_shown == rows["test"]
    assert 0.3 < other.not_shown / rows["test"] < 0.7
    assert len(other.requests) == len(other.positions["test"]) == len(other.rows["test"])


def test_data_that_are_no_lake_are_recognised_by_their_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no known data set"):
        main(TemporalEvaluation(data=tmp_path, work=tmp_path / "work"))
