"""The lake that an evaluation reads."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from recsys.datasets.importer import REPORT, import_dataset
from recsys.datasets.opening import open_dataset
from recsys.files import atomic_write
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


def forget_outdated(work: Path, lake: Path) -> None:
    """Delete what was made in `work` of other content of the lake: examples, weights, scores. Files are compared by
    name, size and time."""
    files = [path for part in (EVENTS, "items", "users") for path in (lake / part).rglob("*.parquet")]
    content = sorted((str(f.relative_to(lake)), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    digest, mark = hashlib.sha256(repr(content).encode()).hexdigest(), work / "made-of"
    if mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return
    for path in work.iterdir() if work.exists() else ():
        if path.is_dir() and path.resolve() != lake.resolve():
            shutil.rmtree(path)
    atomic_write(mark, digest)


def _is_current(data: Path, lake: Path) -> bool:
    """Whether the lake was imported after the newest of the files was written."""
    report = lake / REPORT
    files = data.rglob("*") if data.is_dir() else data.parent.glob("*")
    newest = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    return data.exists() and report.exists() and report.stat().st_mtime > newest
