"""Move many objects of a snapshot at a time, and tell what was moved (`recsys.lake.mirror`)."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from recsys.lake.snapshot import File

HEAL = "the next push of a machine that has the lake uploads it again"
_TRANSFERS = 8  # at a time

Moved = Mapping[str, File]
Progress = Callable[[int, int], None]  # bytes done, bytes of all


class Transfer(NamedTuple):
    """What a push or pull did. `files`, `bytes`: moved, without what an interrupted one had moved. `differing`: files
    here that are not the snapshot's, where a pull had nothing new; `discard` would restore those. `marks_kept`: of
    forgotten users, which the snapshot lacks or has with an earlier time."""

    snapshot: int
    changed: bool
    files: int
    bytes: int
    deleted: int
    differing: int = 0
    marks_kept: int = 0


def size_of(moved: Moved) -> int:
    return sum(file.size for file in moved.values())


def transfer(one: Callable[[str, File], None], entries: Moved, progress: Progress) -> None:
    """Some at a time; the first error ends it."""
    done, of = 0, sum(file.size for file in entries.values())
    pool = ThreadPoolExecutor(_TRANSFERS)
    try:
        sizes = {pool.submit(one, path, file): file.size for path, file in entries.items()}
        for future in as_completed(sizes):
            future.result()
            done += sizes[future]
            progress(done, of)
    finally:
        pool.shutdown(cancel_futures=True)
