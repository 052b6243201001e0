"""The interface of a data set: items, users and events as streams of batches, with the rejected rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import pyarrow as pa

from recsys.contracts.events import SCHEMA_VERSION, derived_id
from recsys.lake.lake import EVENT_SCHEMA, TIME

# An event without its id, which depends on the time, which an import may still shift. `key` distinguishes events that
# are equal in user, item, type and time.
DRAFT_SCHEMA = pa.schema(
    [
        EVENT_SCHEMA.field(name)
        for name in ("type", "user_id", "item_id", TIME, "request_id", "position", "value", "context")
    ]
    + [pa.field("key", pa.string())]
)
USER_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rejected row. `row` is its first line, from 1 with the header line; in a Parquet file its number."""

    file: str
    row: int
    column: str  # empty: the row as a whole
    reason: str  # one of a fixed set, so that reports can count by it
    cell: str = ""  # the first characters of the cell

    def __str__(self) -> str:
        where = f"{self.file}: row {self.row}" + (f", column {self.column}" if self.column else "")
        return f"{where}: {self.reason}" + (f": {self.cell}" if self.cell else "")


@dataclass(slots=True)
class Tally:
    """What became of a file: its rows are `kept` or `broken`. A kept event row may give several events."""

    lines: int = 0  # with the header, blank lines, and the further lines of quoted cells
    blank: int = 0
    rows: int = 0  # without the header and blank ones
    kept: int = 0
    broken: int = 0

    def add(self, other: "Tally") -> None:
        for count in fields(self):
            setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file: what the valid ones give, in one of the schemas above, and the broken ones."""

    file: str
    rows: pa.Table
    tally: Tally
    broken: Sequence[Broken] = field(default_factory=tuple)
    guessed_units: Mapping[str, int] = field(
        default_factory=dict
    )  # "file: column: unit" → times read in that unit


class Dataset(Protocol):
    """A data set on disk, read in bounded memory. `name` is part of event ids and file names."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """Where it is: a folder and its files of events."""

    @property
    def not_read(self) -> Sequence[str]:
        """Files of the data set's folder that no table reads."""

    @property
    def attribution(self) -> str:
        """What becomes of its outcomes without a request: a text for `Attribution.parse`."""

    def items(self) -> Iterator[Batch]:
        """The catalogue, in `ITEM_SCHEMA`; empty if the data set has none."""

    def users(self) -> Iterator[Batch]:
        """Known users, in `USER_SCHEMA`."""

    def events(self, catalogue: pa.Table) -> Iterator[Batch]:
        """Events in file order, in `DRAFT_SCHEMA`, with their item's categories and creator in the context.

        Args:
            catalogue: in `ITEM_SCHEMA`, each id once.
        """


def sealed(drafts: pa.Table, dataset: str, shift_ms: int = 0) -> pa.Table:
    """Shift the drafts' times and add their ids: the result is in `EVENT_SCHEMA`.

    Ids are derived from (time, data set, user, item, type, key), not from the value: importing twice is idempotent, and
    two records of one action are one event.
    """
    times = [time + shift_ms for time in drafts.column(TIME).to_pylist()]
    parts = (drafts.column(name).to_pylist() for name in ("user_id", "item_id", "type", "key"))
    ids = [
        derived_id(time, dataset, user, item, kind, key or "")
        for time, user, item, kind, key in zip(times, *parts, strict=True)
    ]
    count = drafts.num_rows
    added = {
        "event_id": pa.array(ids, pa.string()),
        TIME: pa.array(times, pa.int64()),
        "schema_version": pa.repeat(pa.scalar(SCHEMA_VERSION, pa.int64()), count),
        "partition": pa.nulls(count, pa.int32()),
        "offset": pa.nulls(count, pa.int64()),
    }
    columns = [added[name] if name in added else drafts.column(name) for name in EVENT_SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)
