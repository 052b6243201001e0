"""`recsys report ladder`: the table of the compression ladder, and its plots (quality against bytes, against p99).

A variant's memory is that of a fresh process with numpy, onnxruntime and the variant alone.
"""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from recsys.contracts.errors import InvalidData
from recsys.ranking.compiled import open_ranker
from recsys.result import Goal, Result
from training.compression.gates import OVERLAP
from training.compression.variants import Variant, candidate, read_variants
from training.ranker.export import call_ms, random_inputs

matplotlib.use("Agg")  # no display
CANDIDATES, LENGTH, CALLS = 500, 50, 60
_MEMORY = """
import os, sys
from pathlib import Path
from recsys.ranking.compiled import open_ranker
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
ranker = open_ranker(Path(sys.argv[1]))
print((resident() - before) / 2**20)
"""


def report(ladder: Path, out: Path, calls: int = CALLS) -> Result:
    """Figures of every variant; plots `quality-bytes.svg`, `quality-p99.svg` and `ladder.md` in `out`.

    Raises:
        InvalidData: there is no ladder.
    """
    variants = read_variants(ladder)
    if not variants:
        raise InvalidData(f"{ladder}: no ladder; build it with `recsys train ladder`")
    chosen = candidate(variants)
    figures: dict[str, float] = {}
    for variant in variants:
        model = ladder / variant.name
        p50, p99 = _latency(model, calls)
        figures |= {
            f"{variant.name}_mb": variant.bytes / 1e6,
            f"{variant.name}_memory_mib": _memory(model),
            f"{variant.name}_p50_ms": p50,
            f"{variant.name}_p99_ms": p99,
            f"{variant.name}_requests_per_s": 1e3 / p50,
            f"{variant.name}_overlap": variant.overlap,
            f"{variant.name}_passed": float(not variant.reasons),
            **{f"{variant.name}_{name}": value for name, value in variant.metrics.items()},
        }
    figures |= {
        "served_mb": chosen.bytes / 1e6,
        "served_overlap": chosen.overlap,
        "served_passed_gate": float(not chosen.reasons),
    }
    out.mkdir(parents=True, exist_ok=True)
    _plot(variants, [r.bytes / 1e6 for r in variants], "MB", out / "quality-bytes.svg")
    _plot(variants, [figures[f"{r.name}_p99_ms"] for r in variants], "p99, ms", out / "quality-p99.svg")
    (out / "ladder.md").write_text(table(variants, figures), encoding="utf-8")
    goals = {
        "teacher_mb": Goal(">=", 200),
        "served_mb": Goal("<=", 5),
        "served_overlap": Goal(">=", OVERLAP),
        "served_passed_gate": Goal("==", 1),
    }
    return Result("report ladder", 0, figures, goals)


def table(variants: list[Variant], figures: dict[str, float]) -> str:
    """Markdown, one line per variant."""
    columns = [
        "mb",
        "memory_mib",
        "p50_ms",
        "p99_ms",
        "click_auc",
        "click_gauc",
        "click_calibration_error",
        "overlap",
    ]
    lines = [f"| variant | {' | '.join(columns)} | gate |", "|---" * (len(columns) + 2) + "|"]
    for variant in variants:
        cells = " | ".join(f"{figures[f'{variant.name}_{column}']:.4g}" for column in columns)
        gate = (
            "; ".join(variant.reasons) if variant.reasons else ("passed" if variant.gated else "comparison")
        )
        lines.append(f"| {variant.name} | {cells} | {gate} |")
    return "\n".join(lines) + "\n"


def _latency(model: Path, calls: int) -> tuple[float, float]:
    """p50 and p99 milliseconds of 500 candidates on one thread."""
    ranker = open_ranker(model)
    inputs = random_inputs(1_000, ranker.n_features or 1, LENGTH, CANDIDATES, np.random.default_rng(0))
    ranker.run(inputs)
    low, high = np.percentile(call_ms(ranker, inputs, calls), [50, 99])
    return float(low), float(high)


def _memory(model: Path) -> float:
    """MiB of resident memory that loading the model adds to a process (Linux; NaN elsewhere)."""
    if not Path("/proc/self/statm").exists():
        return float("nan")
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(model)], capture_output=True, text=True, check=True, timeout=300
    )
    return float(done.stdout)


def _plot(variants: list[Variant], x: list[float], label: str, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.semilogx(x, [r.metrics["click_auc"] for r in variants], "o")
    for variant, at in zip(variants, x, strict=True):
        axes.annotate(
            variant.name,
            (at, variant.metrics["click_auc"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlabel(label)
    axes.set_ylabel("click AUC (test)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
