"""Recall benchmarks run, small; their figures are not judged here."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from infra.cli.commands.index import app
from infra.evaluation.benchmarks import recall as bench
from infra.evaluation.benchmarks.index_stress import StressConfig, stress
from infra.evaluation.benchmarks.recall import RecallBench
from infra.evaluation.benchmarks.recall_gpu import GpuBench
from infra.evaluation.benchmarks.recall_gpu import run as run_gpu
from recsys.contracts.errors import InvalidConfig
from recsys.recall.index_kind import Kind
from recsys.recall.live_index import LiveIndex
from recsys.recall.vector_index import Found
from tests.bundles import tiny_vectors, user_tower


def test_the_bench_gives_every_figure_of_its_goals_and_draws_the_curve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = user_tower(
        tiny_vectors(1500, dimension=16)
    )  # exporting the real one takes torch half a minute
    monkeypatch.setattr(bench, "export_user_tower", lambda tower, path: path.write_bytes(stand_in))
    config = RecallBench(
        items=4000, dimension=16, queries=10, tower_items=1500, stress_items=500, stress_s=0.5
    )
    result = bench.run(replace(config, plot=tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert result.goals.keys() <= result.figures.keys()
    assert result.figures["stress_failed_searches"] == result.figures["stress_wrong_searches"] == 0
    assert not math.isnan(result.figures["learnt_probes_128_recall_500"])


def test_the_stress_notices_an_index_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its control: an index that never removes anything."""
    monkeypatch.setattr(LiveIndex, "remove", lambda self, rows: None)
    figures = stress(
        StressConfig(items=500, dimension=8, seconds=1.0, searchers=1, rebuild_at=100, kind=Kind.FLAT)
    )
    assert figures["wrong_searches"] > 0


def test_the_stress_notices_searches_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LiveIndex, queries: object, k: int) -> Found:
        raise RuntimeError("broken")

    monkeypatch.setattr(LiveIndex, "search", fail)
    figures = stress(StressConfig(items=500, dimension=8, seconds=0.2, searchers=1, kind=Kind.FLAT))
    assert figures["failed_searches"] > 0


def test_the_gpu_bench_runs_on_cpu_tensors() -> None:
    result = run_gpu(GpuBench(items=3000, batch=40, batches=2, device="cpu"))
    assert result.figures["torch_recall_500"] > 0.99
    assert result.figures["torch_vectors_per_s"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_gpu_bench_says_that_there_is_no_gpu() -> None:
    with pytest.raises(InvalidConfig, match="no CUDA device"):
        run_gpu(GpuBench(items=1000))


def test_tune_picks_an_index_and_draws_the_curve(tmp_path: Path) -> None:
    arguments = ["tune", "--items", "3000", "--queries", "10", "--kind", "flat", "--kind", "ivf_sq8"]
    found = CliRunner().invoke(
        app, [*arguments, "--max-bytes", "100", "--plot", str(tmp_path / "plots" / "curve.png")]
    )
    assert found.exit_code == 0, found.output
    assert "←" in found.stdout
    assert (tmp_path / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tune_says_when_nothing_is_good_enough() -> None:
    found = CliRunner().invoke(app, ["tune", "--items", "1000", "--queries", "10", "--kind", "flat"])
    assert isinstance(found.exception, InvalidConfig)
    assert "within 80 bytes" in str(found.exception)
