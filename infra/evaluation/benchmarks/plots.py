"""The plots of `recsys bench recall`, `recsys index tune` and `recsys bench serve`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.evaluation.benchmarks.load import Answers
from infra.evaluation.plotting import pyplot, save
from recsys.recall.tune import Measured


def plot_indexes(found: Mapping[str, Sequence[Measured]], path: Path, title: str) -> None:
    """Recall against speed, one line per index: up is better, right is faster. `found`: by the name of the vectors."""
    lines: dict[str, list[Measured]] = defaultdict(list)
    for vectors, each in found.items():
        for measured in each:
            lists = f" {measured.config.lists} lists" if measured.config.kind.startswith("ivf") else ""
            label = f"{vectors}: {measured.label}{lists}, {measured.bytes_per_vector:.0f} B"
            lines[label].append(measured)
    figure, axes = pyplot.subplots(figsize=(9, 6))
    for label, points in lines.items():
        axes.plot([p.speedup for p in points], [p.recall for p in points], marker="o", label=label)
    axes.set(
        xscale="log",
        xlabel="times as fast as exact search (one thread, one query)",
        ylabel="recall@500",
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path, dpi=120, bbox_inches="tight")


def plot_serving(
    path: Path, plain: Mapping[float, Answers], cached: Mapping[float, Answers], figures: Mapping[str, float]
) -> None:
    """Latency against rate, without and with cache hits, and where a request's time goes.

    `plain` and `cached`: rate → answers; `figures` has the stages' means and the floors.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, curve, style in (("no cache hits", plain, "-"), ("70 % hits", cached, "--")):
        for q, colour in ((50, "C0"), (90, "C1"), (99, "C3")):
            ms = [answers.percentile(q) for answers in curve.values()]
            left.plot(list(curve), ms, style, color=colour, marker="o", label=f"p{q}, {name}")
    left.set(
        xlabel="requests per second (open load)",
        ylabel="milliseconds from when due",
        xscale="log",
        yscale="log",
    )
    left.grid(visible=True, alpha=0.3)
    left.legend()
    parts = {n[6:-3]: v for n, v in figures.items() if n.startswith("stage_") and n != "stage_total_ms"}
    alone = {n[:-3].replace("_", " "): v for n, v in figures.items() if n.startswith("floor_")}
    names = [*parts, *alone]
    right.barh(names, [*parts.values(), *alone.values()], color=["C0"] * len(parts) + ["C2"] * len(alone))
    right.invert_yaxis()
    right.set(xlabel="milliseconds: mean of a stage at half of saturation; floors alone")
    save(figure, path)
