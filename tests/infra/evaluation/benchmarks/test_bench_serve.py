"""`recsys bench serve` at a tiny size, on real servers, and what it and `recsys tune serving` conclude."""

from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.benchmarks.load import Answers
from infra.evaluation.benchmarks.process_cost import MemoryCurve
from infra.evaluation.benchmarks.serve import ServeBench, run, sustained
from infra.evaluation.benchmarks.tune_serving import Setting, _Tried, best, write_profile
from serving.settings import ServingSettings


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_every_part_of_the_bench_runs(tmp_path: Path) -> None:
    plot = tmp_path / "serve.png"
    result = run(
        ServeBench(
            items=2_000,
            users=500,
            history_events=2_000,
            workers=1,
            first_rate=20.0,
            step=50.0,
            step_s=1.0,
            half_s=4.0,
            overload=3.0,
            cached_rate=20.0,
            fresh_s=1.0,
            events_per_s=50.0,
            plot=plot,
        )
    )
    figures = result.figures
    assert set(result.goals) <= set(figures)
    assert figures["half_errors"] == 0
    assert figures["overload_other_errors"] == 0
    assert figures["fresh_probes"] >= 1
    assert 0 < figures["cached_hit_share"] < 1
    assert all(figures[name] > 0 for name in ("path_ms", "floor_http_ms", "stage_rank_ms", "half_cpu_api_ms"))
    assert figures["floor_total_ms"] < figures["path_ms"] * 10
    assert plot.stat().st_size > 10_000


def test_a_rate_is_sustained_when_what_was_due_is_answered_in_time() -> None:
    assert sustained(Answers(ms=[5.0] * 100))
    assert not sustained(Answers(ms=[5.0] * 100, failed={503: 5}))
    assert not sustained(Answers(ms=[5.0] * 90 + [900.0] * 10))
    assert not sustained(Answers())


def test_growth_is_that_of_the_later_half(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([100.0, 180.0, 200.0, 203.0])
    monkeypatch.setattr(
        "infra.evaluation.benchmarks.process_cost.largest_rss_mib", lambda pid: next(resident)
    )
    curve = MemoryCurve(1)
    for answered in (100, 100, 200):
        curve.note(answered)
    assert curve.requests == [0, 100, 200, 400]
    assert np.isclose(curve.growth_mib, 3.0)


def test_a_profile_is_read_back_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profiles" / "serving.env"
    write_profile(path, Setting(workers=3, threads=1, batch=4))
    monkeypatch.setenv("RECSYS_THREADS", "7")
    settings = ServingSettings(_env_file=path)
    assert (settings.workers, settings.threads, settings.batch) == (3, 7, 4)


def test_of_settings_that_saturate_alike_the_shorter_tail_wins() -> None:
    slow, near, best_rate = (
        _Tried(Setting(1, 1), 90.0, 5.0),
        _Tried(Setting(2, 1), 97.0, 20.0),
        _Tried(Setting(2, 2), 100.0, 60.0),
    )
    assert best([slow, near, best_rate]) is near
