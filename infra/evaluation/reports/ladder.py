"""`recsys report ladder`: the table of the compression ladder, and its plots (quality against bytes, against p99).

Each rung's memory is that of a fresh process that holds nothing but numpy, onnxruntime and the rung.
"""

import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from recsys.contracts.errors import InvalidData
from recsys.ranking.scorer import RankerSession
from recsys.result import Goal, Result
from training.compression.gates import OVERLAP
from training.compression.variants import ONNX, Rung, candidate, read_rungs
from training.ranker.export import random_inputs

matplotlib.use("Agg")  # no display
CANDIDATES, LENGTH, CALLS = 500, 50, 60
_MEMORY = """
import os, sys
from pathlib import Path
from recsys.ranking.scorer import RankerSession
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
session = RankerSession(Path(sys.argv[1]))
print((resident() - before) / 2**20)
"""


def report(ladder: Path, out: Path, calls: int = CALLS) -> Result:
    """Figures of every rung; plots `quality-bytes.svg`, `quality-p99.svg` and `ladder.md` in `out`.

    Raises:
        InvalidData: there is no ladder.
    """
    rungs = read_rungs(ladder)
    if not rungs:
        raise InvalidData(f"{ladder}: no ladder; build it with `recsys train ladder`")
    chosen = candidate(rungs)
    figures: dict[str, float] = {}
    for rung in rungs:
        model = ladder / rung.name / ONNX
        p50, p99 = _latency(model, calls)
        figures |= {
            f"{rung.name}_mb": rung.bytes / 1e6,
            f"{rung.name}_memory_mib": _memory(model),
            f"{rung.name}_p50_ms": p50,
            f"{rung.name}_p99_ms": p99,
            f"{rung.name}_requests_per_s": 1e3 / p50,
            f"{rung.name}_overlap": rung.overlap,
            f"{rung.name}_passed": float(not rung.reasons),
            **{f"{rung.name}_{name}": value for name, value in rung.metrics.items()},
        }
    figures |= {
        "served_mb": chosen.bytes / 1e6,
        "served_overlap": chosen.overlap,
        "served_passed_gate": float(not chosen.reasons),
    }
    out.mkdir(parents=True, exist_ok=True)
    _plot(rungs, [r.bytes / 1e6 for r in rungs], "MB", out / "quality-bytes.svg")
    _plot(rungs, [figures[f"{r.name}_p99_ms"] for r in rungs], "p99, ms", out / "quality-p99.svg")
    (out / "ladder.md").write_text(table(rungs, figures), encoding="utf-8")
    goals = {
        "teacher_mb": Goal(">=", 200),
        "served_mb": Goal("<=", 5),
        "served_overlap": Goal(">=", OVERLAP),
        "served_passed_gate": Goal("==", 1),
    }
    return Result("report ladder", 0, figures, goals)


def table(rungs: list[Rung], figures: dict[str, float]) -> str:
    """Markdown, one line a rung."""
    columns = (
        "mb",
        "memory_mib",
        "p50_ms",
        "p99_ms",
        "click_auc",
        "click_gauc",
        "click_calibration_error",
        "overlap",
    )
    lines = [f"| rung | {' | '.join(columns)} | gate |", "|---" * (len(columns) + 2) + "|"]
    for rung in rungs:
        cells = " | ".join(f"{figures[f'{rung.name}_{column}']:.4g}" for column in columns)
        gate = "; ".join(rung.reasons) if rung.reasons else ("passed" if rung.gated else "comparison")
        lines.append(f"| {rung.name} | {cells} | {gate} |")
    return "\n".join(lines) + "\n"


def _latency(model: Path, calls: int) -> tuple[float, float]:
    """p50 and p99 milliseconds of 500 candidates on one thread."""
    session = RankerSession(model)
    inputs = random_inputs(1_000, session.n_features or 1, LENGTH, CANDIDATES, np.random.default_rng(0))
    session.run(inputs)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        session.run(inputs)
        times.append(1e3 * (time.perf_counter() - start))
    low, high = np.percentile(times, [50, 99])
    return float(low), float(high)


def _memory(model: Path) -> float:
    """MiB of resident memory that loading the model adds to a process (Linux; NaN elsewhere)."""
    if not Path("/proc/self/statm").exists():
        return float("nan")
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(model)], capture_output=True, text=True, check=True, timeout=300
    )
    return float(done.stdout)


def _plot(rungs: list[Rung], x: list[float], label: str, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.semilogx(x, [r.metrics["click_auc"] for r in rungs], "o")
    for rung, at in zip(rungs, x, strict=True):
        axes.annotate(
            rung.name, (at, rung.metrics["click_auc"]), xytext=(4, 4), textcoords="offset points", fontsize=8
        )
    axes.set_xlabel(label)
    axes.set_ylabel("click AUC (test)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
