"""The simulated A/B test of the case study at tiny size: every part real but its sizes."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from infra.evaluation.case_study.ablation import ABLATED, NOW, Ablation
from infra.evaluation.case_study.effect import AFTER, AFTER_PATH, BEFORE, Effect
from infra.evaluation.case_study.exploring import Exploring
from infra.evaluation.case_study.learn import Learning, read_log, write_examples
from infra.evaluation.case_study.virtual_time import run_virtually
from infra.evaluation.case_study.world_ab import AbSize, assigner
from recsys.contracts.types import MS_PER_DAY
from recsys.features.definitions import FEATURES
from recsys.models.ranker import RankerConfig
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import WorldConfig, create_world
from training.features.packing import matrix_of

TINY = Effect(
    seed=1,
    size=AbSize(
        users=60,
        items=80,
        history_days=3,
        days=2,
        learning=Learning(
            1, 1, 4_000, 2, ranker=RankerConfig(width=8, shared_experts=1, expert_layers=(16, 8))
        ),
    ),
)


def test_virtual_time_jumps_and_keeps_the_order() -> None:
    async def sleeper(seconds: float, into: list[tuple[float, float]]) -> None:
        await asyncio.sleep(seconds)
        into.append((seconds, asyncio.get_running_loop().time()))

    async def all_of_them() -> list[tuple[float, float]]:
        woken: list[tuple[float, float]] = []
        await asyncio.gather(*(sleeper(s, woken) for s in (7_200.0, 60.0, 86_400.0)))
        return woken

    woken = run_virtually(all_of_them())
    assert [seconds for seconds, _ in woken] == [60.0, 7_200.0, 86_400.0]
    assert all(abs(at - seconds) < 1e-3 for seconds, at in woken)


def test_nightly_examples_know_nothing_of_their_own_day(tmp_path: Path) -> None:
    world = create_world(WorldConfig(seed=3, users=40, items=60, days=3))
    write_history(world, tmp_path / "lake", HistoryConfig(days=3))
    log = read_log(tmp_path / "lake")
    items = tmp_path / "lake" / "items" / "items.parquet"
    rows = {}
    for name, nightly in (("night", True), ("now", False)):
        assert write_examples(log, items, tmp_path / name, 2, nightly) > 100
        found = [pq.ParquetFile(p).read() for p in sorted((tmp_path / name).glob("dt=*/*.parquet"))]
        assert len(found) == 2
        rows[name] = found[-1].sort_by("example_id")
    midnight = world.config.start_ms + 2 * MS_PER_DAY
    newest = pc.max(rows["night"]["history_times"].combine_chunks().flatten()).as_py()
    assert newest < midnight <= pc.max(rows["now"]["history_times"].combine_chunks().flatten()).as_py()
    assert rows["night"]["click"].equals(rows["now"]["click"])
    column = list(FEATURES.names).index("item_shown_ever")
    shown = {n: matrix_of(t["features"], FEATURES.dimension)[:, column] for n, t in rows.items()}
    assert (shown["night"] <= shown["now"]).all()
    assert (shown["night"] < shown["now"]).mean() > 0.5


def test_a_ranker_learns_from_price_duration_and_repeats(tmp_path: Path) -> None:
    """Each by the name that the world writes: a feature whose attribute is missing is silently its default."""
    world = create_world(WorldConfig(seed=3, users=40, items=60, days=3))
    write_history(world, tmp_path / "lake", HistoryConfig(days=3))
    write_examples(
        read_log(tmp_path / "lake"), tmp_path / "lake" / "items" / "items.parquet", tmp_path / "out", 2, False
    )
    table = pq.ParquetFile(next((tmp_path / "out").glob("dt=*/*.parquet"))).read()
    rows = [int(item_id[1:]) for item_id in table["item_id"].to_pylist()]
    features = matrix_of(table["features"], FEATURES.dimension)
    columns = dict(zip(FEATURES.names, features.T, strict=True))
    alive = columns["item_price"] > 0  # what expired in the past is not in its catalogue
    assert alive.mean() > 0.9
    np.testing.assert_allclose(columns["item_price"][alive], world.price[rows][alive], atol=0.006)
    np.testing.assert_allclose(
        columns["item_duration_ms"][alive], world.duration[rows][alive] * 1e3, rtol=1e-3
    )
    assert columns["item_looked_by_user_decay7d"].max() > 1.5, (
        "looks, of which a place in the middle gives a third"
    )


@pytest.mark.slow
def test_two_tests_of_one_seed_agree_and_every_row_has_an_interval() -> None:
    first, second = TINY.measure(), TINY.measure()
    assert first == second
    assert {row.row for row in first.rows} <= {"ctr", "cvr", "dwell", "diversity"}
    assert {"ctr", "dwell", "diversity"} <= {row.row for row in first.rows}
    for row in first.rows:
        assert row.simulated
        assert row.exact
        assert row.interval is not None
        assert row.interval[0] <= row.change <= row.interval[1]
    metrics = first.data["metrics"]
    assert {"revenue_per_user", "return_rate", "relevance", "coverage"} <= metrics.keys(), (
        "no trade is hidden"
    )
    # which arm wins says nothing at this size: it turns with the machine's last float bits
    assert all(0 < metrics["list_distance"][arm] <= 1 for arm in ("before", "after"))
    assert first.data["sample_ratio_p"] > 0.001


def test_each_user_keeps_one_arm() -> None:
    arms = [assigner((BEFORE, AFTER)).assign(f"u{row}")[0].arm.name for row in range(2_000)]
    assert arms == [assigner((BEFORE, AFTER)).assign(f"u{row}")[0].arm.name for row in range(2_000)]
    assert 900 < arms.count(BEFORE) < 1_100
    assert set(arms) == {BEFORE, AFTER}


@pytest.mark.slow
def test_both_ways_of_exploring_are_compared_in_the_test_and_from_the_log() -> None:
    found = Exploring(1, TINY.size).measure()
    figures = found.data["exploration"]
    assert figures["low"] <= figures["change"] <= figures["high"]
    assert 0 < figures["thompson_truth"] < 1
    assert figures["IPS_low"] <= figures["IPS"] <= figures["IPS_high"]
    assert [line[0] for line in found.sheets[0].lines][:2] == ["true clicks at the place, per list", "ctr"]


@pytest.mark.slow
def test_each_means_is_left_out_alone() -> None:
    found = Ablation(1, TINY.size).measure()
    [sheet] = found.sheets
    assert [line[0] for line in sheet.lines] == [arm for arm in ABLATED if arm != AFTER]
    assert set(found.data["ablation"]) == {arm for arm in ABLATED if arm != AFTER}
    for name, plan in ABLATED.items():
        differs = [
            plan.trained != NOW,
            plan.path.rerank != AFTER_PATH.rerank,
            plan.path.weights != AFTER_PATH.weights,
        ]
        assert sum(differs) == (2 if name == "without-tastes" else name != AFTER)
