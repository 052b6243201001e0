"""What `recsys tune all` chooses from what it measured."""

from pathlib import Path

import pytest

from infra.evaluation.benchmarks.tune_all import Tried, WholeTuning, best, run, variants_ms
from infra.evaluation.benchmarks.tune_serving import Setting, write_profile
from recsys.contracts.errors import InvalidData
from serving.settings import IndexKind, ServingSettings

BUDGETS = WholeTuning(50.0, 600.0, Path(), Path())


def tried(candidates: int, workers: int, per_s: float, p99_ms: float, mb: float) -> Tried:
    return Tried(candidates, Setting(workers, 1), per_s, p99_ms, mb)


def test_the_most_candidates_within_both_budgets_win() -> None:
    found = [
        tried(1_000, 2, 90.0, 60.0, 500.0),  # too slow
        tried(1_000, 1, 50.0, 45.0, 700.0),  # too large
        tried(500, 2, 100.0, 40.0, 550.0),
        tried(250, 2, 140.0, 30.0, 500.0),
    ]
    assert best(found, BUDGETS) is found[2]


def test_of_the_same_candidates_the_latest_saturation_wins_then_the_least_memory() -> None:
    slow, large, small = (
        tried(500, 1, 60.0, 20.0, 300.0),
        tried(500, 2, 100.0, 40.0, 590.0),
        tried(500, 3, 96.0, 45.0, 500.0),
    )
    assert best([slow, large, small], BUDGETS) is small
    assert best([slow, large], BUDGETS) is large


def test_what_sustains_no_rate_fits_no_budget() -> None:
    nothing = Tried(100, Setting(1, 1))
    assert best([nothing], BUDGETS) is None
    assert nothing.figures == {"candidates100_workers1_threads1_batch1_saturation_per_s": 0.0}


def test_the_profile_is_one_that_the_api_reads(tmp_path: Path) -> None:
    path = tmp_path / "serving.env"
    write_profile(path, tried(250, 2, 100.0, 40.0, 500.0).environ(IndexKind.EXACT))
    settings = ServingSettings(_env_file=path)
    assert (settings.candidates, settings.workers, settings.index) == (250, 2, IndexKind.EXACT)


def test_without_a_ladder_it_says_how_to_build_one(tmp_path: Path) -> None:
    config = WholeTuning(50.0, 600.0, tmp_path, tmp_path / "serving.env")
    with pytest.raises(InvalidData, match="recsys train ladder"):
        variants_ms(config)
    with pytest.raises(InvalidData, match="recsys train ladder"):
        run(config)
