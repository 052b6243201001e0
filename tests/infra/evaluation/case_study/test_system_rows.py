"""The system rows of the case study at a tiny size, on real servers: Redis, the broker, workers, the API over HTTP."""

from pathlib import Path

import pytest

from infra.evaluation.case_study.deployments import STEPS
from infra.evaluation.case_study.models import Models
from infra.evaluation.case_study.online import Online
from infra.evaluation.case_study.served import Size
from infra.evaluation.case_study.steps import Steps
from infra.evaluation.case_study.training import Training
from infra.evaluation.case_study.under_load import UnderLoad
from infra.evaluation.case_study.updates import Updates

SIZE = Size(items=1_200, users=200, history_events=500, ids=2_000)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once for all tests here."""
    return tmp_path_factory.mktemp("networks")


@pytest.mark.redis
def test_bytes_online_are_weighed_and_nearly_the_same_every_time() -> None:
    first, second = (Online(3, events=1_500, users=30, items=60, days=2).measure().rows for _ in range(2))
    assert [row.before for row in first] == pytest.approx([row.before for row in second], rel=0.02)
    assert [row.after for row in first] == pytest.approx([row.after for row in second], rel=0.02)
    whole, of_user, of_item = first
    assert whole.before == pytest.approx(of_user.before + of_item.before)
    assert whole.after == pytest.approx(of_user.after + of_item.after)
    assert min(of_user.before, of_user.after, of_item.before, of_item.after) > 100


@pytest.mark.slow
def test_an_update_sends_what_has_changed(networks: Path) -> None:
    changed, whole, copied, ranker = Updates(networks, 0, items=1_200, ids=2_000).measure().rows
    assert ranker.after < changed.after < copied.after < whole.after < whole.before
    assert changed.before == whole.before


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_before_and_after_are_measured_under_the_same_load(networks: Path) -> None:
    found = UnderLoad(
        networks, SIZE, workers=1, first_rates=(10.0, 10.0), step=100.0, step_s=1.0, steady_s=6.0
    ).measure()
    whole = {row.row: row for row in found.rows if not row.part}
    assert whole.keys() == {
        "response_time", "response_time_p99", "throughput", "memory", "compute", "hardware_cost", "network",
    }  # fmt: skip
    assert all(row.before > 0 and row.after > 0 for row in whole.values())
    before, after = found.data["before"], found.data["after"]
    assert before["rate"] == after["rate"]
    assert "worker" in after["cpu_s"]
    assert "worker" not in before["cpu_s"]
    assert before["bytes_"]["redis"] > 5 * after["bytes_"]["redis"]  # 500 documents against one user
    assert after["bytes_"]["kafka"] > before["bytes_"]["kafka"]  # a worker reads what was written
    assert len(found.data["response_ms"]["before"]) > 10
    limits = found.sheets[1].lines
    assert [line[0] for line in limits] == [f"p99 within {ms} ms" for ms in (80, 100, 200, 500)]
    for side in (before, after):
        rates = [side["by_limit"][ms] for ms in (80, 100, 200, 500)]
        assert rates == sorted(rates)  # a looser limit never allows less
        assert rates[-1] == side["throughput"]


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_every_step_answers_and_equal_features_give_equal_lists(networks: Path, tmp_path: Path) -> None:
    some = ("before", "ann", "columns", "after")
    found = Steps(
        networks, tmp_path / "no-ladder", SIZE, rate=10.0, seconds=1.0, compared=5, steps=some
    ).measure()
    steps = {step["name"]: step for step in found.data["steps"]}
    assert tuple(steps) == some
    assert all(
        step["failed"] == 0 and step["p50_ms"] > 0 and step["api_cpu_ms"] > 0 for step in steps.values()
    )
    assert steps["before"]["overlap"] is None
    assert steps["ann"]["overlap"] is None  # another network
    assert steps["columns"]["overlap"] > 0.8  # some features tick
    assert set(some) <= {step.name for step in STEPS}


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_nights_training_is_weighed_with_everything_it_needs() -> None:
    found = Training(0, users=60, items=80, days=3, recall_epochs=1).measure()
    whole, between, in_full, rarely, energy = found.rows
    costs = found.data["costs"]
    for row, name in ((between, "update"), (in_full, "full")):
        assert row.before == pytest.approx(sum(costs["before"].values()))
        assert row.after == pytest.approx(sum(costs[name].values()))
    assert whole.after == pytest.approx((in_full.after + 6 * between.after) / 7)  # the full night is counted
    assert min(between.after, in_full.after) < rarely.after < max(between.after, in_full.after)
    assert energy.after / energy.before == pytest.approx(
        whole.after / whole.before
    )  # of processor time alone
    assert costs["update"]["ranker"] < costs["full"]["ranker"]
    assert min(cost for kind in costs.values() for cost in kind.values()) > 0
    scores = {line[0]: float(line[1]) for line in found.sheets[1].lines}
    assert len(scores) == 3
    assert all(0.3 < auc < 1 for auc in scores.values())


@pytest.mark.slow
def test_without_a_ladder_the_networks_are_untrained_and_it_says_so(networks: Path, tmp_path: Path) -> None:
    found = Models(tmp_path / "none", networks, 0, ids=2_000, candidates=20, calls=3).measure()
    size, ranking = found.rows
    assert "untrained" in size.how
    assert size.before > size.after
    assert ranking.before > ranking.after
