"""Compaction: merge the archiver's files into one per day and delete the rows of forgotten users.

Readers see each event once at any time: the new file appears atomically before the old ones are deleted, and in
between `recsys.lake.lake.read_day` drops repeated ids. After a crash, the next compaction merges the files again.
Imported files are rewritten only to delete rows, under their own names, because the next import replaces them by name.

Archiver and importer may run at the same time: only the archiver's files that existed at the start are replaced, and
tables that several processes rewrite are rewritten under `recsys.lake.commit.rewriting`. Days are merged without that
lock and put in place under it, if a pull of the lake (`recsys.lake.mirror`) has not replaced their files meanwhile.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.datasets.changed import change_times, times_path, times_table
from recsys.files import locked
from recsys.lake.commit import rewriting
from recsys.lake.forget import forgotten_users, is_forgotten, user_digest
from recsys.lake.lake import (
    EVENTS,
    IMPRESSIONS,
    TIME,
    day_files,
    days,
    is_replaceable,
    read_files,
    write_parquet,
)
from recsys.lake.merges import forget_merges, users_with_history_of
from recsys.lake.snapshot import STATE

_USERS = Path("users") / "users.parquet"


@dataclass
class Compacted:
    """Counters of one compaction. `rows_removed`: rows of forgotten users and repeated event ids."""

    days: int = 0
    files_before: int = 0
    files_after: int = 0
    rows_removed: int = 0


def compact(lake: Path, features: Path | None = None) -> Compacted:
    """Compact every day of events and impressions, and the tables of users and merges; remove forgotten users from the
    examples and sequences in `features`, whose days the next `recsys features build` makes again."""
    forgotten, done = forgotten_users(lake), Compacted()
    for table in (EVENTS, IMPRESSIONS):
        for day in days(lake, table):
            _compact_day(lake, table, day, forgotten, done)
    if features is not None and forgotten:
        _clean_features(features, forgotten, users_with_history_of(lake, forgotten), done)
    with rewriting(lake):
        if forgotten and (lake / _USERS).exists():
            _clean_users(lake / _USERS, forgotten, done)
        if forgotten:
            done.rows_removed += forget_merges(lake, forgotten)
    if forgotten:
        _clean_mirror(lake / STATE)
    return done


def _compact_day(lake: Path, table: str, day: str, forgotten: Mapping[str, int], done: Compacted) -> None:
    files_before = done.files_before
    files = day_files(lake, day, table)
    ours = [path for path in files if not is_replaceable(path)]
    if len(ours) > 1 or (ours and _has_forgotten(ours[0], forgotten)):
        _merge(lake, ours, table, forgotten, done)
    for path in files:
        if is_replaceable(path) and forgotten:
            with rewriting(lake):
                if path.exists() and _has_forgotten(path, forgotten):  # no import has replaced it
                    rows = _without(read_files([path], table), forgotten)
                    _replace([path], path, rows, done)
    done.days += done.files_before > files_before


def _merge(
    lake: Path, files: Sequence[Path], table: str, forgotten: Mapping[str, int], done: Compacted
) -> None:
    """The archiver's files as one; not if a pull has replaced one of them meanwhile: it may have fewer rows."""
    before = _versions(files)

    def unchanged() -> bool:
        return None not in before and _versions(files) == before

    try:
        rows = _without(read_files(files, table), forgotten)
    except InvalidData:
        if unchanged():  # it is damaged
            raise
        return
    digest = hashlib.sha256("".join(path.name for path in files).encode()).hexdigest()
    with rewriting(lake):
        if unchanged():
            _replace(files, files[0].with_name(f"day-{digest[:16]}.parquet"), rows, done)


def _versions(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """What differs when a file was replaced; None: it is gone."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            stat = path.stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


def _replace(files: Sequence[Path], target: Path, rows: pa.Table, done: Compacted) -> None:
    """Replace files by one (`target` may be among them), or by none when no row is left. Hold `rewriting`."""
    before = sum(pq.read_metadata(path).num_rows for path in files)
    if rows.num_rows:
        write_parquet(target, rows)
    for path in files:
        if path != target or not rows.num_rows:
            path.unlink()
    done.files_before += len(files)
    done.files_after += bool(rows.num_rows)
    done.rows_removed += before - rows.num_rows


def _has_forgotten(path: Path, forgotten: Mapping[str, int]) -> bool:
    if not forgotten:
        return False
    try:
        rows = pq.read_table(path, columns=["user_id", TIME], partitioning=None)
    except FileNotFoundError:  # replaced by a pull
        return False
    return bool(_without(rows, forgotten).num_rows < rows.num_rows)


def _without(rows: pa.Table, forgotten: Mapping[str, int]) -> pa.Table:
    """The rows without those of forgotten users up to the time of their request."""
    users = rows.column("user_id")
    gone = {u: forgotten[d] for u in pc.unique(users).to_pylist() if (d := user_digest(u)) in forgotten}
    for user, until_ms in gone.items():
        theirs = pc.and_(pc.equal(users, user), pc.less_equal(rows.column(TIME), until_ms))
        rows = rows.filter(pc.invert(theirs))
        users = rows.column("user_id")
    return rows


def _clean_features(features: Path, forgotten: Mapping[str, int], others: Set[str], done: Compacted) -> None:
    """Whole users, whenever their events were: what came after the request is in the lake. `others`: users who have the
    history of a forgotten id, too."""
    for path in (*features.glob("examples/dt=*/*.parquet"), *features.glob("sequences/*.parquet")):
        rows = pq.read_table(path, partitioning=None)
        users = rows.column("user_id").to_pylist()
        keep = [user not in others and user_digest(user) not in forgotten for user in users]
        if not all(keep):
            write_parquet(path, rows.filter(pa.array(keep)))
            done.rows_removed += keep.count(False)


def _clean_users(path: Path, forgotten: Mapping[str, int], done: Compacted) -> None:
    rows = pq.read_table(path, partitioning=None)
    changed = change_times(path)  # a user who was written after the request stays
    by_digest = {
        user_digest(user) if is_forgotten(forgotten, user, ms) else user: ms for user, ms in changed.items()
    }
    if by_digest.keys() != changed.keys():
        write_parquet(times_path(path), times_table("user_id", sorted(by_digest.items())))
    users = rows.column("user_id").to_pylist()
    keep = [not is_forgotten(forgotten, user, changed.get(user, 0)) for user in users]
    if not all(keep):
        write_parquet(path, rows.filter(pa.array(keep)))
        done.rows_removed += keep.count(False)


def _clean_mirror(state: Path) -> None:
    """Remove the folders that a killed push or pull has left: their files may have rows of forgotten users."""
    if not state.exists():
        return
    # BlockingIOError: one is under way, and removes its own
    with suppress(BlockingIOError), locked(state / "lock", wait=False):
        for path in state.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
