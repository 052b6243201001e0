"""Import a data set into the lake: one pass over the files, then one over the days.

The lake changes only after everything has been read, sorted and written to temporary files; then the files of the data
set's earlier import are replaced. Memory holds the catalogue, the users, and a bounded number of events.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.errors import InvalidData
from recsys.contracts.events import EVENT_KEY
from recsys.contracts.types import MS_PER_DAY, EventType, Item
from recsys.datasets.base import USER_SCHEMA, Batch, Dataset, sealed
from recsys.datasets.catalogue import items_path, users_path
from recsys.datasets.merging import merged_items, merged_users
from recsys.datasets.rejected import FOLDER as REJECTED
from recsys.datasets.rejected import Rejected
from recsys.datasets.replacing import (
    earlier_import,
    refuse_another_source,
    refuse_losses,
    refuse_nothing,
    report_path,
)
from recsys.datasets.report import ImportReport
from recsys.datasets.spill import Spill
from recsys.files import atomic_write
from recsys.items.item_table import ITEM_SCHEMA, items_table
from recsys.lake.commit import commit, rewriting, staging
from recsys.lake.first_of_each import first_of_each
from recsys.lake.lake import EVENTS, ORDER, TIME, DayFiles, day_of, files_of, write_parquet

REPORT = "import-report.json"
Progress = Callable[[str, int], None]  # phase, rows done so far
_STARRED = [str(EventType.RATING), str(EventType.DISLIKE)]
_MS_PER_WEEK = 7 * MS_PER_DAY


def import_dataset(
    dataset: Dataset,
    lake: Path,
    *,
    strict: bool = False,
    replace: bool = False,
    end_ms: int | None = None,
    progress: Progress = lambda phase, rows: None,
    max_rows: int = 500_000,
) -> ImportReport:
    """Write a data set and its report into the lake, in the place of its earlier import.

    Args:
        strict: refuse the data set if a row is broken, instead of writing broken rows to `rejected/`.
        replace: also in the place of another source of the same name, or of many more rows.
        end_ms: shift all times by whole weeks, so that the last event is in the week before this time; weekdays
            and hours stay. None: no shift.
        max_rows: approximate number of events in memory.

    Raises:
        InvalidData: a file is missing or unreadable; `strict` and a row is broken; no row is valid; or what it would
            replace needs `replace`. The lake is unchanged.
        InvalidConfig: another process is importing a data set of the same name.
    """
    name = f"import-{dataset.name}"
    with staging(lake, name) as folder:
        earlier = earlier_import(lake, dataset.name)
        if not replace:
            refuse_another_source(earlier, dataset.name, dataset.source)
        run, files = _Import(dataset, folder, end_ms, progress, max_rows), folder / "files"
        run.read(strict)
        refuse_nothing(earlier, run.report)
        events = DayFiles(files / EVENTS, name, max_rows)
        for rows in run.sorted_events():
            events.write(rows)
        events.flush()
        if not replace:
            refuse_losses(earlier, run.report)
        rejected = Path(REJECTED) / f"{name}.parquet"
        run.rejected.publish(files / rejected)
        with rewriting(lake):
            items, users = run.merge(lake, is_first=earlier.rows is None)
            write_parquet(items_path(files), items)
            write_parquet(users_path(files), users)
            report = json.dumps(run.finished().to_dict(), indent=2) + "\n"
            for path in (files / REPORT, report_path(files, dataset.name)):
                atomic_write(path, report, fsync=True)
            commit(lake, files, [*files_of(lake, EVENTS, name), lake / rejected])
    return run.report


def validate_dataset(
    dataset: Dataset,
    *,
    strict: bool = False,
    end_ms: int | None = None,
    progress: Progress = lambda phase, rows: None,
    max_rows: int = 500_000,
) -> ImportReport:
    """Report what an import would do. Only a temporary folder is written.

    Raises:
        InvalidData: as `import_dataset`.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-validate-") as work:
        run = _Import(dataset, Path(work), end_ms, progress, max_rows)
        run.report.dry_run = True
        run.read(strict)
        for _ in run.sorted_events():
            pass  # the events are counted as they pass
        run.items()
        run.rejected.close()
        return run.finished()


class _Import:
    """One run: call `read`, then `sorted_events`, `items` and `users`, then `finished`."""

    def __init__(
        self, dataset: Dataset, work: Path, end_ms: int | None, progress: Progress, max_rows: int
    ) -> None:
        self._dataset = dataset
        self._end_ms = end_ms
        self._progress = progress
        self._started = time.monotonic()
        self._latest_ms = 0
        (work / "events").mkdir()
        self._spill = Spill(work / "events", max_rows)
        self._catalogue = ITEM_SCHEMA.empty_table()
        self.users = USER_SCHEMA.empty_table()
        self.rejected = Rejected(work / "rejected.parquet")
        self._active = np.empty(0, np.int64)  # hashes of the ids of users with events
        self.report = ImportReport(
            dataset.name, dataset.source, attribution=dataset.attribution, not_read=list(dataset.not_read)
        )

    def read(self, strict: bool) -> None:
        """Read items, users, then events into the spill.

        Raises:
            InvalidData: a file is unreadable; or `strict` and a row is broken.
        """
        self._catalogue, self.report.duplicate_items = self._whole("items", ITEM_SCHEMA)
        self.users, self.report.duplicate_users = self._whole("users", USER_SCHEMA)
        self.report.users = self.users.num_rows
        taken = 0
        for batch in self._dataset.events(self._catalogue):
            self._note("events", batch)
            if batch.rows.num_rows:
                self._latest_ms = max(self._latest_ms, pc.max(batch.rows.column(TIME)).as_py())
                self._spill.add(batch.rows)
            taken += batch.rows.num_rows
            self._progress("reading", taken)
        if strict and self.report.broken:
            first = "; ".join(map(str, self.report.first_broken[:3]))
            rows = "broken row" if self.report.broken == 1 else "broken rows"
            raise InvalidData(
                f"{self.report.broken} {rows}, nothing was imported. First: {first}. "
                "Correct the data (`recsys data validate` lists the reasons), or import without --strict"
            )

    def sorted_events(self) -> Iterator[pa.Table]:
        """Spans of events in `EVENT_SCHEMA` by (time, id, user), each event once; counts them for the report."""
        shift_ms = self._shift_ms()
        self.report.shift_weeks = shift_ms // _MS_PER_WEEK
        done = 0
        for drafts in self._spill.spans():
            events = sealed(drafts, self._dataset.name, shift_ms)
            events = events.take(pc.sort_indices(events, ORDER))
            unique = first_of_each(events, *EVENT_KEY)
            self._count(events, unique)
            done += events.num_rows
            self._progress("writing", done)
            yield unique

    def items(self) -> pa.Table:
        """The shifted catalogue; without one, the items that the events name."""
        if not self._catalogue.num_rows:
            self._catalogue = items_table([Item(item_id) for item_id in self.report.unknown_items])
            self.report.unknown_items.clear()
        self.report.items = self._catalogue.num_rows
        return _shifted(self._catalogue, self._shift_ms())

    def merge(self, lake: Path, is_first: bool) -> tuple[pa.Table, pa.Table]:
        """The lake's tables of items and users with this data set's. Hold `rewriting(lake)`."""
        known = bool(self._catalogue.num_rows)
        items, users = merged_items(lake, self.items(), known=known), merged_users(lake, self.users)
        self.report.outdated_items, self.report.outdated_users = items.outdated, users.outdated
        if is_first:  # otherwise they may be its own
            self.report.overwritten_items, self.report.overwritten_users = (
                items.overwritten,
                users.overwritten,
            )
        return items.rows, users.rows

    def finished(self) -> ImportReport:
        self.report.seconds = time.monotonic() - self._started
        return self.report

    def _whole(self, table: Literal["items", "users"], schema: pa.Schema) -> tuple[pa.Table, int]:
        """All rows, each id (the first column) once, and the number of duplicates."""
        tables = [schema.empty_table()]
        for batch in self._dataset.items() if table == "items" else self._dataset.users():
            self._note(table, batch)
            tables.append(batch.rows)
        rows = pa.concat_tables(tables)
        unique = first_of_each(rows, schema.names[0])
        return unique, rows.num_rows - unique.num_rows

    def _note(self, table: str, batch: Batch) -> None:
        self.rejected.add(batch.broken)
        self.report.note(table, batch)

    def _shift_ms(self) -> int:
        if self._end_ms is None or not self._latest_ms:
            return 0
        return (self._end_ms - self._latest_ms) // _MS_PER_WEEK * _MS_PER_WEEK

    def _count(self, events: pa.Table, unique: pa.Table) -> None:
        all_types, types = _counts(events.column("type")), _counts(unique.column("type"))
        day = day_of(unique.column(TIME)[0].as_py())
        self.report.events_by_type += types
        self.report.duplicates_by_type += all_types - types
        self.report.events_by_day.setdefault(day, Counter()).update(types)
        stars = unique.filter(pc.is_in(unique.column("type"), pa.array(_STARRED))).column("value")
        if (best := pc.max(stars).as_py()) is not None:
            self.report.best_stars = max(best, self.report.best_stars or best)
        users = pc.unique(unique.column("user_id")).to_pylist()
        self._active = np.union1d(self._active, np.fromiter(map(hash, users), np.int64, len(users)))
        self.report.active_users = len(self._active)
        items = unique.column("item_id")
        unknown = pc.invert(pc.is_in(items, value_set=self._catalogue.column("item_id")))
        self.report.unknown_items.update(_counts(items.filter(unknown)))


def _shifted(items: pa.Table, shift_ms: int) -> pa.Table:
    for name in ("created_ms", "available_from_ms", "available_until_ms"):
        at = items.column(name)
        moved = pc.if_else(pc.equal(at, 0), at, pc.add(at, shift_ms))  # 0 means none
        items = items.set_column(items.schema.get_field_index(name), items.schema.field(name), moved)
    return items


def _counts(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()})
