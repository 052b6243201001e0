"""The offline gate: an equal bundle passes, each kind of harm fails the check that is there for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.evaluation.fault_injection.release.planted import (
    INVERTED,
    NEW_ITEMS_NAN,
    POPULAR,
    SLOW,
    WRONG_CALIBRATION,
    plant,
)
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.features.definitions import FEATURES
from recsys.lake.lake import write_parquet
from tests.bundles import tiny_items, tiny_linear, write_tiny_bundle
from training.evaluation.log_health import DayCounts, day_counts, log_checks
from training.evaluation.release_gate import GateConfig, main
from training.features.packing import bytes_of
from training.ranker.dataset import examples_of

START_MS = 1_750_032_000_000  # a midnight, UTC
USERS, ROWS = 60, 6  # rows per user and day
IDS = [item.item_id for item in tiny_items()]


def rows_of_day(day: int, rng: np.random.Generator) -> pa.Table:
    """Each user looks at some items with one item as the history; clicks are filled in later."""
    n = USERS * ROWS
    user = np.repeat(np.arange(USERS), ROWS)
    history = rng.integers(0, len(IDS), USERS)[user]
    return pa.table(
        {
            "user_id": [f"u{u}" for u in user],
            "item_id": [IDS[i] for i in rng.integers(0, len(IDS), n)],
            "event_time_ms": START_MS + day * MS_PER_DAY + 60_000 * np.arange(n),
            "position": np.zeros(n, np.int64),
            "click": np.zeros(n),
            "conversion": np.zeros(n),
            "like": np.zeros(n),
            "dwell_ms": np.zeros(n, np.int64),
            "history_items": [[IDS[i]] for i in history],
            "history_types": [[str(EventType.CLICK)]] * n,
            "history_times": [[START_MS - 1_000]] * n,
            "features": bytes_of(np.zeros((n, FEATURES.dimension), np.float32)),
        }
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five days of examples whose clicks are drawn by the serving bundle's own probabilities."""
    from recsys.contracts.types import Head
    from recsys.ranking.compiled import open_ranker
    from training.compression.ladder import row_scores

    folder = tmp_path_factory.mktemp("gate")
    bundle = write_tiny_bundle(folder / "bundles", "serving", linear=tiny_linear(len(tiny_items())))
    ranker, rng = open_ranker(bundle.path), np.random.default_rng(0)
    for day in range(5):
        table = rows_of_day(day, rng)
        p = row_scores(ranker, examples_of(table, IDS, FEATURES.dimension, 50))[Head.CLICK]
        click = (rng.random(len(p)) < p).astype(np.float64)
        table = table.set_column(table.column_names.index("click"), "click", pa.array(click))
        write_parquet(folder / "examples" / f"dt=2025-06-{16 + day}" / "part.parquet", table)
    return folder


def failed(shop: Path, candidate: str) -> set[str]:
    config = GateConfig(
        candidate=shop / "bundles" / candidate,
        serving=shop / "bundles" / "serving",
        examples=shop / "examples",
        k=10,
    )
    return {check.name for check in main(config) if check.problem}


def test_planted_bundles_fail_the_checks_that_are_there_for_them_and_an_equal_one_passes(shop: Path) -> None:
    linear = tiny_linear(len(tiny_items()))
    bundle = write_tiny_bundle(shop / "bundles", "equal", linear=linear, current=False)
    plant(shop / "bundles", bundle)
    assert failed(shop, "equal") == set()
    assert failed(shop, SLOW) == set(), "no offline figure knows the latency"
    assert {"click_auc", "click_gauc"} <= failed(shop, INVERTED)
    assert failed(shop, NEW_ITEMS_NAN) == {"finite_scores"}
    assert failed(shop, WRONG_CALIBRATION) == {"calibration"}
    assert {"click_gauc", "coverage"} <= failed(shop, POPULAR)


def test_every_check_has_both_figures(shop: Path) -> None:
    write_tiny_bundle(shop / "bundles", "again", current=False)
    config = GateConfig(
        candidate=shop / "bundles" / "again",
        serving=shop / "bundles" / "serving",
        examples=shop / "examples",
        k=10,
    )
    checks = {check.name: check for check in main(config)}
    assert set(checks) == {
        *("rows", "click_rate", "click_auc", "click_gauc", "calibration", "recall", "coverage"),
        *("feature_psi", "finite_scores"),
    }
    assert all(check.candidate is not None and check.serving is not None for check in checks.values())
    assert checks["rows"].candidate == checks["rows"].serving == USERS * ROWS


def test_the_newest_24_hours_are_compared_with_those_before(shop: Path) -> None:
    counts = day_counts(shop / "examples")
    assert [day.rows for day in counts] == [USERS * ROWS] * 4
    assert list(log_checks(counts[-3:])) == [], "two days before say nothing"


@pytest.mark.parametrize(
    ("newest", "problems"),
    [
        (DayCounts(1_000, {"click": 100, "conversion": 5, "like": 0}), set()),
        (DayCounts(300, {"click": 30, "conversion": 2, "like": 0}), {"rows"}),
        (DayCounts(4_000, {"click": 400, "conversion": 20, "like": 0}), {"rows"}),
        (DayCounts(1_000, {"click": 250, "conversion": 5, "like": 0}), {"click_rate"}),
        (DayCounts(1_000, {"click": 100, "conversion": 60, "like": 0}), set()),  # of few, no rate
    ],
)
def test_a_poisoned_or_cut_night_is_found(newest: DayCounts, problems: set[str]) -> None:
    usual = DayCounts(1_000, {"click": 100, "conversion": 5, "like": 0})
    checks = list(log_checks([usual, replace(usual, rows=1_100), usual, usual, newest]))
    assert {check.name for check in checks if check.problem} == problems
