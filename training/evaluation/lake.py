"""The lake that an evaluation reads."""

from collections.abc import Callable
from pathlib import Path

from recsys.datasets.importer import REPORT, import_dataset
from recsys.datasets.opening import open_dataset
from recsys.lake.lake import EVENTS


def lake_of(data: Path, work: Path) -> Path:
    """The data itself if it is a lake; else where the data set is imported to."""
    return data if (data / EVENTS).is_dir() else work / "lake"


def imported(
    data: Path, work: Path, layout: str | None = None, report: Callable[[str], None] = lambda line: None
) -> Path:
    """`lake_of`, filled: a data set is imported once, with its own times.

    Args:
        layout: format of the data set; None: recognised by its files.

    Raises:
        InvalidData: neither a lake nor a data set, or one that cannot be read.
    """
    lake = lake_of(data, work)
    if lake == data:
        return lake
    if (lake / REPORT).exists():
        report(f"{data} was imported before; if it has changed, delete {lake}")
        return lake
    report(f"next: import {data} into {lake}")
    import_dataset(open_dataset(data, layout), lake)
    return lake
