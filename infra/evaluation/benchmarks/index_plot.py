"""The curve of recall against speed, one line an index."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from recsys.recall.tune import Measured


def plot_indexes(found: Mapping[str, Sequence[Measured]], path: Path, title: str) -> None:
    """Save a PNG: up is better recall, right is faster. `found`: by the name of the vectors."""
    lines: dict[str, list[Measured]] = defaultdict(list)
    for vectors, each in found.items():
        for measured in each:
            lists = f" {measured.config.lists} lists" if measured.config.kind.startswith("ivf") else ""
            label = f"{vectors}: {measured.label}{lists}, {measured.bytes_per_vector:.0f} B"
            lines[label].append(measured)
    figure, axes = plt.subplots(figsize=(9, 6))
    for label, points in lines.items():
        axes.plot([p.speedup for p in points], [p.recall for p in points], marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as exact search (one thread, one query)")
    axes.set_ylabel("recall@500")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
