"""The lake that an evaluation reads."""

from collections.abc import Callable
from pathlib import Path

from recsys.datasets.importer import REPORT, import_dataset
from recsys.datasets.opening import open_dataset
from recsys.lake.lake import EVENTS


def imported(
    data: Path, lake: Path, layout: str | None = None, report: Callable[[str], None] = lambda line: None
) -> Path:
    """The data itself if it is a lake; else `lake`, into which the data set is imported with its own times, unless it
    was since the newest of its files was written.

    Args:
        layout: format of the data set; None: recognised by its files.

    Raises:
        InvalidData: neither a lake nor a data set, or one that cannot be read.
    """
    if (data / EVENTS).is_dir():
        return data
    if not _is_current(data, lake):
        report(f"next: import {data} into {lake}")
        import_dataset(open_dataset(data, layout), lake, replace=True)
    return lake


def _is_current(data: Path, lake: Path) -> bool:
    """Whether the lake was imported after the newest of the files was written."""
    report = lake / REPORT
    files = data.rglob("*") if data.is_dir() else data.parent.glob("*")
    newest = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    return data.exists() and report.exists() and report.stat().st_mtime > newest
