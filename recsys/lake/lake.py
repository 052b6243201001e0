"""The lake: Parquet files partitioned by event day (UTC), which training reads.

`lake/events/dt=YYYY-MM-DD/*.parquet` has all events, `lake/impressions/dt=…/*.parquet` one row per shown item with
the feature values that were served. Importers and the archiver write through this module, so there is one Arrow
schema, which follows from the fields of `recsys.contracts.events.Event`.
"""

import re
import typing
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.contracts.events import EVENT_FIELDS, EVENT_KEY, Event
from recsys.contracts.impressions import Impression, ShownItem, impression_events
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.files import staged_file
from recsys.lake.commit import commit, rewriting, settle, staging
from recsys.lake.first_of_each import first_of_each
from recsys.lake.parquet import read_columns

EVENTS = "events"
IMPRESSIONS = "impressions"
TIME = "event_time_ms"
ORDER = [(name, "ascending") for name in (TIME, "event_id", "user_id")]  # of events in the lake
DAY_PREFIX = "dt="
COMPRESSION = "zstd"
_NUMBERED = re.compile(r"-\d{4}\.parquet$")  # the end of what `DayFiles` writes

_TEXTS = pa.map_(pa.string(), pa.string())
_ARROW: Mapping[Any, pa.DataType] = {
    str: pa.string(),
    EventType: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    Mapping[str, str]: _TEXTS,
}
# where the event log had the record; null for imported data sets
_ORIGIN = (pa.field("partition", pa.int32()), pa.field("offset", pa.int64()))


def _event_field(name: str, hint: Any) -> pa.Field:
    if isinstance(hint, UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        return pa.field(name, _ARROW[hint])
    return pa.field(name, _ARROW[hint], nullable=False)


EVENT_SCHEMA = pa.schema(
    [*(_event_field(name, hint) for name, hint in typing.get_type_hints(Event).items()), *_ORIGIN]
)
IMPRESSION_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),  # of the impression event in `events`
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field(TIME, pa.int64(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),
        pa.field("channels", pa.list_(pa.string()), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("creator", pa.string(), nullable=False),
        pa.field("bundle", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("context", _TEXTS, nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),  # in the bundle's column order
        *_ORIGIN,
    ]
)

_OF_REQUEST = ("request_id", "user_id", "bundle", "fingerprint", "arm")


def start_of(day: str) -> int:
    """Unix milliseconds of a day's midnight (YYYY-MM-DD, UTC)."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000


def newest_days(rows: Mapping[str, int], wanted: int) -> list[str]:
    """The newest of the days that have `wanted` rows together, or all of them; oldest first. `rows`: of each day.

    >>> newest_days({"2026-03-01": 2, "2026-03-02": 3, "2026-03-03": 4}, 5)
    ['2026-03-02', '2026-03-03']
    """
    found: list[str] = []
    so_far = 0
    for day in sorted(rows, reverse=True):
        if so_far >= wanted:
            break
        found.append(day)
        so_far += rows[day]
    return found[::-1]


def day_of(time_ms: int) -> str:
    """The UTC day of a Unix time in milliseconds.

    >>> day_of(893286638000)
    '1998-04-22'
    """
    return datetime.fromtimestamp(time_ms // 1_000, UTC).strftime("%Y-%m-%d")


# --- rows to tables ---------------------------------------------------------------------------------------------


def events_table(
    events: Sequence[Event], partition: int | None = None, offsets: Sequence[int] | None = None
) -> pa.Table:
    """A table in `EVENT_SCHEMA`; `offsets[i]` is where the event log had `events[i]`."""
    columns: dict[str, Any] = {name: [getattr(e, name) for e in events] for name in EVENT_FIELDS}
    columns["context"] = [list(e.context.items()) for e in events]
    columns["partition"] = [partition] * len(events)
    columns["offset"] = offsets if offsets is not None else [None] * len(events)
    return pa.table(columns, schema=EVENT_SCHEMA)


def impressions_table(
    impressions: Sequence[Impression], partition: int | None = None, offsets: Sequence[int] | None = None
) -> pa.Table:
    """A table in `IMPRESSION_SCHEMA`, one row per shown item."""
    rows: list[dict[str, Any]] = []
    for n, impression in enumerate(impressions):
        shown = zip(impression.items, impression_events(impression), impression.features, strict=True)
        rows += [
            {name: getattr(item, name) for name in ShownItem.__slots__}
            | {name: getattr(impression, name) for name in _OF_REQUEST}
            | {
                "event_id": event.event_id,
                TIME: impression.time_ms,
                "context": list(impression.context.items()),
                "features": features,
                "partition": partition,
                "offset": offsets[n] if offsets is not None else None,
            }
            for item, event, features in shown
        ]
    return pa.Table.from_pylist(rows, schema=IMPRESSION_SCHEMA)


def table_events(table: pa.Table) -> Iterator[Event]:
    """The events of a table in `EVENT_SCHEMA`, in its order."""
    columns = [table.column(name).to_pylist() for name in EVENT_FIELDS]
    kind, context = EVENT_FIELDS.index("type"), EVENT_FIELDS.index("context")
    for row in zip(*columns, strict=True):
        values = list(row)
        values[kind] = EventType(values[kind])
        values[context] = dict(values[context])
        yield Event(*values)


# --- writing ----------------------------------------------------------------------------------------------------


def split_by_day(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each UTC day, in the table's order within a day."""
    day = np.asarray(table.column(TIME)) // MS_PER_DAY
    for number in np.unique(day):
        yield day_of(int(number) * MS_PER_DAY), table.filter(pa.array(day == number))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically and flush it to disk."""
    with staged_file(path, fsync=True) as temporary:
        pq.write_table(table, temporary, compression=COMPRESSION)


def is_replaceable(path: Path) -> bool:
    """True for a file of `DayFiles`, whose earlier files are found by their names; other writers need other names.

    >>> is_replaceable(Path("import-ml-100k-0000.parquet")), is_replaceable(Path("day-0011223344556677.parquet"))
    (True, False)
    """
    return _NUMBERED.search(path.name) is not None


class DayFiles:
    """Writes any number of rows into `folder/dt=…/<name>-NNNN.parquet`, with at most `max_rows` in memory. Ends with
    `flush`."""

    def __init__(self, folder: Path, name: str, max_rows: int = 500_000) -> None:
        self._folder = folder
        self._name = name
        self._max_rows = max_rows
        self._held: dict[str, list[pa.Table]] = defaultdict(list)
        self._held_rows = 0
        self._flushes = 0
        self.rows = 0  # written so far, by all calls

    def write(self, table: pa.Table) -> None:
        """Add rows of any days, in any order."""
        for day, rows in split_by_day(table):
            self._held[day].append(rows)
        self._held_rows += table.num_rows
        self.rows += table.num_rows
        if self._held_rows >= self._max_rows:
            self.flush()

    def flush(self) -> None:
        for day, tables in self._held.items():
            file = f"{self._name}-{self._flushes:04d}.parquet"
            write_parquet(self._folder / f"{DAY_PREFIX}{day}" / file, pa.concat_tables(tables))
        self._held.clear()
        self._held_rows = 0
        self._flushes += 1


def files_of(lake: Path, table: str, name: str) -> list[Path]:
    """The files of all days that `DayFiles` wrote under a name."""
    return sorted((lake / table).glob(f"{DAY_PREFIX}*/{name}-[0-9][0-9][0-9][0-9].parquet"))


@contextmanager
def day_writer(lake: Path, table: str, name: str, max_rows: int = 500_000) -> Iterator[DayFiles]:
    """Write rows of any days into the lake. On success the files replace those that the same `name` wrote before, so
    repeating it is idempotent; on an error the lake is unchanged."""
    with staging(lake, name) as staged:
        writer = DayFiles(staged / table, name, max_rows)
        yield writer
        writer.flush()
        with rewriting(lake):
            commit(lake, staged, files_of(lake, table, name))


# --- reading ----------------------------------------------------------------------------------------------------


def days(lake: Path, table: str = EVENTS) -> list[str]:
    """The days that have files, in order."""
    settle(lake)
    paths = (lake / table).glob(f"{DAY_PREFIX}*/[!._]*.parquet")
    return sorted({path.parent.name.removeprefix(DAY_PREFIX) for path in paths})


def count_rows(lake: Path, table: str = EVENTS, first_day: str = "", last_day: str = "9999") -> int:
    """Rows in the files of those days, by their footers: repeated event ids count."""
    chosen = (day for day in days(lake, table) if first_day <= day <= last_day)
    files = (path for day in chosen for path in day_files(lake, day, table))
    return sum(pq.read_metadata(path).num_rows for path in files)


def read_day(lake: Path, day: str, table: str = EVENTS, columns: Sequence[str] | None = None) -> pa.Table:
    """One day by (event time, event id, user), each event once, because clients may retry. `columns` selects some;
    those of the order are always read. Raises `InvalidData`: a file is not Parquet in the lake's schema."""
    return read_files(day_files(lake, day, table), table, columns)


def day_files(lake: Path, day: str, table: str = EVENTS) -> list[Path]:
    """The files of one day, by name."""
    settle(lake)
    return sorted((lake / table / f"{DAY_PREFIX}{day}").glob("[!._]*.parquet"))


def read_files(paths: Sequence[Path], table: str = EVENTS, columns: Sequence[str] | None = None) -> pa.Table:
    """As `read_day`, for some files."""
    schema = EVENT_SCHEMA if table == EVENTS else IMPRESSION_SCHEMA
    names = schema.names if columns is None else list(dict.fromkeys((*columns, TIME, *EVENT_KEY)))
    parts = []
    for path in paths:
        try:
            parts.append(read_columns(path, names))
        except (pa.ArrowException, OSError) as error:
            raise InvalidData(f"{path}: not a readable Parquet file of the lake: {error}") from error
    wanted = pa.schema([schema.field(name) for name in names])
    rows = pa.concat_tables([part.cast(wanted) for part in parts]) if parts else wanted.empty_table()
    return first_of_each(rows.take(pc.sort_indices(rows, ORDER)), *EVENT_KEY)


def read_events(lake: Path, first_day: str = "", last_day: str = "9999") -> Iterator[Event]:
    """Every event by (event time, event id, user), day by day, both ends included. Memory: one day."""
    for day in days(lake):
        if first_day <= day <= last_day:
            yield from table_events(read_day(lake, day))
