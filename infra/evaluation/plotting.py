"""Matplotlib without a display, and how a figure becomes a file."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

matplotlib.use("Agg")

__all__ = ["pyplot", "save"]


def save(figure: pyplot.Figure, path: Path, **options: Any) -> None:
    """Write the figure into a folder that is made if needed, and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, **options)
    pyplot.close(figure)
