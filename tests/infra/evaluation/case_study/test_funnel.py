"""Real data in the case study: skipped with the reason without it, one line per channel and ranker with it."""

from pathlib import Path

from infra.evaluation.case_study.funnel import KUAIRAND, MOVIELENS, Funnel, channels, rankers
from recsys.result import Result


def test_without_data_the_sheet_says_why(tmp_path: Path) -> None:
    for data, word in ((None, "not given"), (tmp_path, "has neither")):
        found = Funnel(data, tmp_path / "work").measure()
        (sheet,) = found.sheets
        assert not found.rows
        assert word in sheet.note
        assert MOVIELENS in sheet.note


def test_a_channel_has_its_ceiling_and_what_it_loses() -> None:
    figures = {"cases": 50.0, "two_tower_over_popularity_hr200": 0.4}
    for name, ceiling in (("popularity", 0.4), ("two_tower", 0.8)):
        figures |= {
            f"{name}_hr200": ceiling,
            f"{name}_hr50": 0.3,
            f"{name}_hr10": 0.2,
            f"{name}_coverage10": 0.1,
        }
    sheet = channels(MOVIELENS, Result("evaluate recall", 0, figures, {}))
    assert [line[0] for line in sheet.lines] == ["two_tower", "popularity"]
    assert sheet.lines[0] == ["two_tower", 0.8, 0.3, 0.2, "75%", 0.1]
    assert "50 held-out cases" in sheet.note


def test_every_head_of_both_rankers_has_a_line() -> None:
    heads, metrics = ("click", "long_view", "like"), ("auc", "gauc", "calibration_error")
    figures = {
        f"{model}_{head}_{metric}": 0.5
        for model in ("teacher", "int8")
        for head in heads
        for metric in metrics
    }
    sheet = rankers(Result("evaluate rank-benchmark", 0, figures, {}))
    assert len(sheet.lines) == 6
    assert KUAIRAND in sheet.title
