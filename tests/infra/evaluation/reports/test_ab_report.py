"""`recsys ab`: the report of a lake with a planted lift, and off-policy estimates against the truth."""

from pathlib import Path

import pytest

from infra.evaluation.reports.ab import AbReport, report
from infra.evaluation.reports.off_policy import OffPolicy, run
from recsys.contracts.errors import InvalidConfig, InvalidData
from tests.recsys.experiments.lakes import LakeBuilder, day
from tests.recsys.experiments.test_outcomes import PLANTED, planted_lake


def test_a_planted_lift_is_reported_with_its_checks(tmp_path: Path) -> None:
    planted_lake(tmp_path / "lake")
    config = AbReport(tmp_path / "lake", "x", tmp_path / "out", aa_tests=40)
    result = report(config)
    figures = result.figures
    assert figures["better_ctr_low"] <= PLANTED <= figures["better_ctr_high"]
    assert figures["better_ctr_sequential_p"] < 0.05
    assert figures["split_p"] > 0.001
    assert {
        "better_coverage_lift",
        "better_ctr_cohens_d",
        "better_ctr_detectable",
        "aa_ctr",
    } <= figures.keys()
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| ctr |" in text
    assert "as planned" in text
    for name in ("arms-over-time", "lifts", "users"):
        assert (tmp_path / "out" / f"{name}.svg").stat().st_size > 1_000
    again = report(config)
    assert again.figures == figures


def test_one_arm_alone_and_an_unknown_control_are_refused(tmp_path: Path) -> None:
    lake = LakeBuilder()
    for n in range(3):
        lake.show(f"u{n}", day(0), ["i1/p"], "x:a@1")
    lake.write(tmp_path / "lake")
    with pytest.raises(InvalidData, match="nothing to compare"):
        report(AbReport(tmp_path / "lake", "x", tmp_path / "out"))
    with pytest.raises(InvalidConfig, match="no arm 'z'"):
        report(AbReport(tmp_path / "lake", "x", tmp_path / "out", control="z"))


def test_off_policy_estimates_agree_with_the_truth() -> None:
    result = run(OffPolicy(seed=1, rows=3_000))
    assert result.met, result.figures
    assert abs(result.figures["logged_mean"] - result.figures["truth"]) > 0.02
