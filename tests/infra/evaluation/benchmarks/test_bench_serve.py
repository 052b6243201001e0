"""`recsys bench serve` at a tiny size, on real servers, and what it and `recsys tune serving` conclude."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.evaluation.benchmarks import saturation
from infra.evaluation.benchmarks.load import Answers, Load
from infra.evaluation.benchmarks.process_cost import Memory, MemoryCurve, memory_figures
from infra.evaluation.benchmarks.saturation import saturate, sustained
from infra.evaluation.benchmarks.serve import ServeBench, goals, run
from infra.evaluation.benchmarks.serve_compared import compared
from infra.evaluation.benchmarks.serving_fixture import LENGTH, bench_ranker
from infra.evaluation.benchmarks.tune_serving import Setting, _Tried, best, write_profile
from recsys.contracts.errors import Unavailable
from recsys.features.definitions import FEATURES
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
    assert 0 <= figures["half_compiled_share"] <= 1
    assert 0 < figures["half_distinct_items"] <= figures["half_shown"]
    assert plot.stat().st_size > 10_000


def test_a_rate_is_sustained_when_what_was_due_is_answered_in_time() -> None:
    assert sustained(Answers(ms=[5.0] * 100))
    assert not sustained(Answers(ms=[5.0] * 100, failed={503: 5}))
    assert not sustained(Answers(ms=[5.0] * 90 + [900.0] * 10))
    assert not sustained(Answers())


def test_a_ranker_that_shows_everybody_the_same_items_misses_a_goal() -> None:
    goal = goals(ServeBench())["half_distinct_share"]
    assert not goal.met(266 / 6_000)
    assert goal.met(3_537 / 6_000)


def test_the_ranker_of_the_bench_shows_users_different_items() -> None:
    """The same candidates with the same features, for users with different histories."""
    torch.manual_seed(0)
    items, features = torch.arange(1, 501), torch.rand(500, FEATURES.dimension) * 100
    histories = torch.randint(1, 2_001, (20, LENGTH))
    histories[:, :-3] = 0  # most users have a few events

    def different(likeness: float) -> float:
        ranker, shown = bench_ranker(2_000, likeness), set[int]()
        with torch.no_grad():
            for history in histories:
                user = ranker.user(history[None], *torch.ones(2, 1, LENGTH, dtype=torch.int64))
                click = ranker.score(user, items, features, torch.zeros(500, dtype=torch.int64)).click
                shown.update(click.topk(20).indices.tolist())
        return len(shown) / 400

    assert different(300.0) > 0.15
    assert different(0.0) == 0.05, "twenty for all"


def test_growth_is_that_of_the_later_half(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([100.0, 180.0, 200.0, 203.0])
    monkeypatch.setattr(
        "infra.evaluation.benchmarks.process_cost.largest_memory",
        lambda pid: Memory(next(resident), 0.0, 0.0),
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
    write_profile(path, Setting(workers=3, threads=1, batch=4).environ)
    monkeypatch.setenv("RECSYS_THREADS", "7")
    settings = ServingSettings(_env_file=path)
    assert (settings.workers, settings.threads, settings.batch) == (3, 7, 4)


def _answers(load: Load, most: float) -> Answers:
    answered = load.rate <= most
    return Answers(ms=[1.0] * 10, failed={} if answered else {503: 5}, took_s=10 / load.rate)


@pytest.mark.parametrize(
    ("most", "rates"),
    [
        (100.0, [60, 90, 135]),
        (25.0, [60, 20, 30]),
        (2.3, [60, 20, 60 / 9, 60 / 27, 10 / 3]),
        (1.2, [60, 20, 60 / 9, 60 / 27, 1, 1.5]),
    ],
)
def test_a_busy_machine_is_asked_for_less(
    monkeypatch: pytest.MonkeyPatch, most: float, rates: list[float]
) -> None:
    monkeypatch.setattr(saturation, "run_load", lambda load: _answers(load, most))
    curve = saturate(Load(0, 60.0, 1.0), 1.5)
    assert list(curve) == pytest.approx(rates)
    assert max(rate for rate, answers in curve.items() if sustained(answers)) <= most


def test_a_machine_that_sustains_nothing_is_said_to_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "run_load", lambda load: _answers(load, 0.0))
    curve = saturate(Load(0, 60.0, 1.0), 1.5)
    assert min(curve) == 1
    with pytest.raises(Unavailable, match="is the machine busy"):
        saturation.saturation(curve)


def test_of_settings_that_saturate_alike_the_shorter_tail_wins() -> None:
    slow, near, best_rate = (
        _Tried(Setting(1, 1), 90.0, 5.0),
        _Tried(Setting(2, 1), 97.0, 20.0),
        _Tried(Setting(2, 2), 100.0, 60.0),
    )
    assert best([slow, near, best_rate]) is near


def test_memory_counts_shared_pages_as_the_kernel_does() -> None:
    rollup = "5500-7ffe ---p 00000000 00:00 0   [rollup]\n" + "".join(
        f"{name}: {kib} kB\n"
        for name, kib in {
            "Rss": 4096,
            "Pss": 2048,
            "Pss_Dirty": 9,
            "Private_Clean": 512,
            "Private_Dirty": 512,
        }.items()
    )
    assert Memory.parse(rollup) == Memory(rss=4.0, pss=2.0, private=1.0)
    own = memory_figures({"api": os.getpid()})
    assert 0 < own["memory_api_private_mib"] <= own["memory_api_pss_mib"] <= own["memory_api_rss_mib"]


def test_ratios_are_of_one_round_and_medians_over_all() -> None:
    reference = [
        {"saturation_per_s": rate, "half_p50_ms": 8.0, "path_ms": 0.0, "stage_rank_ms": 1.0}
        for rate in (100.0, 50.0, 200.0)
    ]
    native = [
        {**one, "saturation_per_s": 4 * one["saturation_per_s"], "half_p50_ms": 2.0} for one in reference
    ]
    found = compared("reference", reference, "native", native)
    assert (found["reference_saturation_per_s"], found["native_saturation_per_s"]) == (100.0, 400.0)
    assert (found["ratio_saturation_per_s"], found["ratio_half_p50_ms"]) == (4.0, 0.25)
    assert np.isnan(found["ratio_path_ms"])
    assert not any("stage" in name for name in found)
