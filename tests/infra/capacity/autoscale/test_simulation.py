"""The simulation: queues with known answers, traces, and the benchmark at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from infra.capacity.autoscale.bench import AutoscaleBench, run
from infra.capacity.autoscale.fleets import Day, api, workers
from infra.capacity.autoscale.queues import Calibration, Events, Requests
from infra.capacity.autoscale.simulate import simulate
from infra.capacity.autoscale.traces import diurnal, flash

OF = Calibration(rate=100.0)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_day_has_the_peak_and_the_mean_that_it_is_given() -> None:
    day = diurnal(600.0, 3.0)
    assert day.max() == pytest.approx(600.0)
    assert day.mean() == pytest.approx(200.0, rel=1e-3)
    assert day.argmax() == len(day) // 2


def test_flash_crowds_come_on_top_and_stay_below_the_most() -> None:
    day = diurnal(600.0, 3.0)
    crowded = flash(day, 700.0, rng())
    assert (crowded >= day).all()
    assert crowded.max() <= 700.0
    assert crowded.sum() > 1.01 * day.sum()


def test_at_half_of_the_rate_the_99th_percentile_is_the_measured_one() -> None:
    queue = Requests(np.full(600, 50.0), OF, rng())
    for second in range(600):
        queue.step(second, 1)
    assert queue.failed.sum() == 0
    assert queue.p99(300, 600) == pytest.approx(0.048, abs=0.003)
    assert queue.bad.sum() / queue.work.sum() == pytest.approx(0.01 ** (80 / 48), rel=0.2)


def test_what_is_more_than_the_processes_hold_is_refused() -> None:
    queue = Requests(np.full(100, 250.0), OF, rng())
    for second in range(100):
        queue.step(second, 2)
    assert queue.served[10:].sum() == 90 * 200
    assert queue.failed[10:].mean() == pytest.approx(50.0, rel=0.1)
    assert queue.wait[50] == pytest.approx(OF.in_flight * 2 / 200)
    assert queue.bad[50] == queue.failed[50] + queue.served[50]  # the wait alone takes longer


def test_an_event_waits_for_its_partitions_worker() -> None:
    """Of three partitions, one worker of two has two: its third of the events more are late."""
    queue = Events(np.full(600, 270.0), np.full(3, 1 / 3), Calibration(rate=150.0, claim_s=0), rng())
    for second in range(300):
        queue.step(second, 2)
    assert queue.worst[299] == pytest.approx((180.0 - 150.0) / 2 * 300, rel=0.1)
    assert queue.bad[299] == pytest.approx(180.0, rel=0.3)
    for second in range(300, 600):
        queue.step(second, 3)
    assert queue.total[599] < 100
    assert queue.bad[599] == 0


def test_a_partition_that_changes_hands_is_not_read_for_a_moment() -> None:
    queue = Events(np.full(20, 200.0), np.full(2, 0.5), Calibration(rate=1_000.0, claim_s=3), rng())
    for second in range(20):
        queue.step(second, 1 if second < 10 else 2)  # the second partition moves
    assert queue.total[9] == 0
    assert queue.worst[12] == queue.total[12] == pytest.approx(300.0, rel=0.2)
    assert queue.total[13] == 0


def test_pods_cost_from_their_creation_and_serve_later() -> None:
    trace = np.full(600, 150.0)
    queue = Requests(trace, OF, rng())
    outcome = simulate(queue, lambda pods: 4 if pods.second < 300 else 3, first=1, start_s=60)
    assert outcome.core_hours == pytest.approx((120 + 180 * 4 + 300 * 3) / 3_600)
    assert queue.served[119] == queue.served[179] == 100.0  # asked for at 120, ready at 180
    assert queue.served[180] > 100.0
    assert outcome.reversals == 1
    assert outcome.missed_minutes == 4  # three with one pod; the fourth begins with those that waited
    assert outcome.failed > 0


def test_foresight_misses_nothing_and_costs_less_than_the_peak() -> None:
    day = Day(3, crowds=True, day_s=7_200)
    for fleet in (api(day), workers(day)):
        ahead, fixed = fleet.play("foresight"), fleet.play("at_peak")
        assert fixed.missed_minutes == 0
        assert ahead.failed == 0
        assert ahead.core_hours < fixed.core_hours


def test_the_benchmark_compares_both_fleets(tmp_path: Path) -> None:
    plot = tmp_path / "autoscale.png"
    result = run(AutoscaleBench(days=1, day_s=1_800, plot=plot))
    assert result.command == "bench autoscale (simulated)"
    assert result.goals.keys() == {
        f"{fleet}_{what}"
        for fleet in ("api", "workers")
        for what in ("missed_ratio", "core_hours_ratio", "reversals_per_hour", "failed")
    }
    assert result.figures["workers_crowds_before_missed_minutes"] > 0
    assert result.figures["workers_missed_ratio"] < 1
    assert plot.stat().st_size > 10_000
