"""Labelled impressions as arrays: what the Spark feature job wrote, ready for the ranker.

Everything is in memory: 10 M examples with 50 features and 50 events of history take 5 GB; beyond that, train on fewer
days.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import MS_PER_SECOND, Head, Item
from recsys.models.encoding import TYPE_NUMBERS, gap_buckets
from training.features.packing import HISTORY, TALLY, matrix_of, unpacked

COLUMNS = [
    *("user_id", "item_id", "event_time_ms", "position", "click", "conversion", "like", "dwell_ms"),
    *HISTORY,
    "features",
]
OFFSET = ("offset_click", "offset_conversion")
_MAKE_THEM = (
    "`recsys features build` makes them of what the lake has of lists, clicks, likes, orders and ratings"
)


@dataclass(frozen=True)
class RankExamples:
    """n labelled impressions, oldest first; entry i of every array is of the same one.

    Labels are in the order of `Head`: click, conversion (and clicked), like, log1p of dwell seconds.
    """

    history: NDArray[np.int32]  # (n, L) item numbers, newest last, left-padded with 0
    types: NDArray[np.int8]  # (n, L)
    gaps: NDArray[np.int8]  # (n, L)
    items: NDArray[np.int64]  # (n,) numbers, 0 unknown
    features: NDArray[np.float32]  # (n, D); D + 2 with offsets
    position: NDArray[np.int64]  # (n,) from 0
    labels: NDArray[np.float32]  # (n, heads)
    users: NDArray[np.int64]  # (n,) codes, equal for equal users
    time_ms: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[Any] | slice) -> "RankExamples":
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def label(self, head: Head) -> NDArray[np.float32]:
        return self.labels[:, tuple(Head).index(head)]


# example rows → (n, 2) offsets of click and conversion, which become the last features
Offset = Callable[[pa.Table], NDArray[np.float32]]


def read_examples(
    folder: Path,
    item_ids: Sequence[str],
    n_features: int,
    length: int,
    days: Sequence[str] | None = None,
    offset: Offset | None = None,
) -> RankExamples:
    """Read every day (or `days`, YYYY-MM-DD) of `folder`/dt=….

    Args:
        item_ids: the item table in its order; number i + 1 is item_ids[i].
        n_features: D that every row must have.
        length: L, the newest events of each history.
        offset: of a ranker with offsets; D + 2 features then.

    Raises:
        InvalidData: there are no examples, or a row has another number of features.
    """
    return examples_of(read_rows(folder, COLUMNS, days, offset), item_ids, n_features, length)


def read_rows(
    folder: Path,
    columns: Sequence[str] = COLUMNS,
    days: Sequence[str] | None = None,
    offset: Offset | None = None,
) -> pa.Table:
    """The table that `examples_of` takes, oldest row first; `columns` are `COLUMNS` or more.

    Raises:
        InvalidData: there are no examples.
    """
    wanted = [*columns, *(TALLY if offset else ())]
    # fragment by fragment: the tallies of a whole log would be as large as its features
    table = pa.concat_tables(_with_offset(part, offset) for part in fragments(folder, wanted, days))
    if not len(table):
        raise InvalidData(f"{folder}: the example files are empty; {_MAKE_THEM}")
    # by time, and rows of one instant in an order that does not depend on the files
    order = [(name, "ascending") for name in ("event_time_ms", "user_id", "item_id")]
    return table.sort_by(order)


def fragments(folder: Path, columns: Sequence[str], days: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The files of every day (or `days`), oldest first, unpacked.

    Raises:
        InvalidData: there are none, or one lacks a column.
    """
    found = sorted(p for p in folder.glob("dt=*/*.parquet") if days is None or p.parent.name[3:] in set(days))
    if not found:
        raise InvalidData(f"{folder}: no examples; {_MAKE_THEM}")
    # without the folder's name as a column: dt would become a dictionary column
    for path in found:
        part = pq.ParquetFile(path).read(columns=list(columns))
        if missing := [name for name in columns if name not in part.column_names]:
            raise InvalidData(f"{path}: lacks {', '.join(missing)}; run `recsys features build` again")
        yield unpacked(part)


def sampled_flags(folder: Path) -> Iterator[pa.Table]:
    """The column `sampled` of every file: rows that nobody was shown."""
    for path in folder.glob("dt=*/*.parquet"):
        yield pq.ParquetFile(path).read(columns=["sampled"])


def rows_of_days(folder: Path) -> Counter[str]:
    """How many examples each day has, by the files' footers."""
    of_days = Counter[str]()
    for path in folder.glob("dt=*/*.parquet"):
        of_days[path.parent.name[3:]] += pq.read_metadata(path).num_rows
    return of_days


def _with_offset(part: pa.Table, offset: Offset | None) -> pa.Table:
    if offset is None:
        return part
    columns, part = offset(part).T, part.drop_columns(list(TALLY))
    for name, column in zip(OFFSET, columns, strict=True):
        part = part.append_column(name, pa.array(column, pa.float32()))
    return part


def examples_of(table: pa.Table, item_ids: Sequence[str], n_features: int, length: int) -> RankExamples:
    """The arrays of an example table (columns `COLUMNS`, and `OFFSET` where there are some)."""
    features = matrix_of(table["features"], n_features)
    if {*OFFSET} <= {*table.column_names}:
        features = np.column_stack((features, *(_numpy(table[name], np.float32) for name in OFFSET)))
    time_ms = _numpy(table["event_time_ms"], np.int64)
    known = pa.array(item_ids, pa.string())
    history, types, gaps = _histories(table, known, time_ms, length)
    click = _numpy(table["click"], np.float32)
    dwell_s = np.maximum(_numpy(table["dwell_ms"], np.float64), 0) / MS_PER_SECOND
    labels = {
        Head.CLICK: click,
        Head.CONVERSION: click * _numpy(table["conversion"], np.float32),
        Head.LIKE: _numpy(table["like"], np.float32),
        Head.DWELL: np.log1p(dwell_s),
    }
    return RankExamples(
        history=history,
        types=types,
        gaps=gaps,
        items=_numbers(table["item_id"], known),
        features=features,
        position=np.maximum(_numpy(table["position"], np.int64), 0),
        labels=np.stack([labels[head] for head in Head], axis=1).astype(np.float32),
        users=_codes(table["user_id"]),
        time_ms=time_ms,
    )


def temporal_split(examples: RankExamples, validation: float) -> tuple[RankExamples, RankExamples]:
    """(training, validation): the latest share `validation` of the rows; rows of one instant stay together. All rows
    of one instant: no validation."""
    first = latest_share(examples.time_ms, validation)
    return examples.take(slice(0, first)), examples.take(slice(first, None))


def latest_share(time_ms: NDArray[np.int64], share: float) -> int:
    """Where the latest `share` of the rows, 0 < share < 1, begins; never within an instant. `time_ms`: ascending."""
    cut = time_ms[int(len(time_ms) * (1 - share))]
    first = int(np.searchsorted(time_ms, cut, side="left"))
    if first == 0:  # most rows are of the first instant
        first = int(np.searchsorted(time_ms, cut, side="right"))
    return first


@dataclass(frozen=True)
class ItemFields:
    """Categorical facts of the items: (n_items + 1, n_fields) codes, row 0 and code 0 unknown.

    values: field → its values; code i + 1 is the i-th.
    """

    codes: NDArray[np.int64]
    sizes: tuple[int, ...]
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


def item_fields(
    items: Sequence[Item],
    attributes: Sequence[str] = (),
    least: int = 2,
    known: Mapping[str, Sequence[str]] | None = None,
) -> ItemFields:
    """Main category, second category, creator, and the named attributes.

    A value of fewer than `least` items is unknown; a field without any value is left out.

    Args:
        known: fields and values that have their codes already; exactly these fields are returned, and values that are
            new get the next codes.
    """
    columns = {
        "category": [i.categories[0] if i.categories else "" for i in items],
        "second_category": [i.categories[1] if len(i.categories) > 1 else "" for i in items],
        "creator": [i.creator for i in items],
        **{f"attribute {name}": [i.attributes.get(name, "") for i in items] for name in attributes},
    }
    codes: list[NDArray[np.int64]] = []
    values: dict[str, Sequence[str]] = {}
    for name in columns if known is None else known:
        column = np.array(columns[name])
        found, counts = np.unique(column, return_counts=True)
        often = found[(counts >= least) & (found != "")].tolist()
        old = list((known or {}).get(name, ()))
        names = old + sorted({*often} - {*old})
        if not names:
            continue
        values[name] = names
        code = {value: i for i, value in enumerate(names, start=1)}
        codes.append(np.array([0, *(code.get(value, 0) for value in column.tolist())], np.int64))
    table = np.stack(codes, axis=1) if codes else np.zeros((len(items) + 1, 0), np.int64)
    return ItemFields(table, tuple(len(names) + 1 for names in values.values()), values)


def _histories(
    table: pa.Table, known: pa.Array, time_ms: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int8]]:
    """All histories at once, equal to `recsys.models.encoding.encode_arrays` row by row (tested)."""
    lists = table["history_items"].combine_chunks()
    n = len(table)
    counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)
    rows = np.repeat(np.arange(n), counts)
    numbers = _numbers(lists.flatten(), known)
    type_names = table["history_types"].combine_chunks().flatten()
    types = _lookup(type_names, pa.array([str(t) for t in TYPE_NUMBERS])) + 1
    times = _numpy(table["history_times"].combine_chunks().flatten(), np.int64)
    keep = numbers > 0
    rows, numbers, types, times = rows[keep], numbers[keep], types[keep], times[keep]

    last_of_row = np.append(rows[1:] != rows[:-1], True) if len(rows) else np.zeros(0, bool)
    following = np.where(last_of_row, time_ms[rows], np.append(times[1:], 0)) if len(rows) else times
    gaps = np.where((times > 0) & (following > 0), gap_buckets(times, following), 0)
    ends = np.cumsum(np.bincount(rows, minlength=n))
    column = length - (ends[rows] - np.arange(len(rows)))  # the newest event goes to the last column
    fits = column >= 0
    encoded = tuple(np.zeros((n, length), dtype) for dtype in (np.int32, np.int8, np.int8))
    for target, values in zip(encoded, (numbers, types, gaps), strict=True):
        target[rows[fits], column[fits]] = values[fits]
    return encoded  # type: ignore[return-value]


def _numbers(values: Any, known: pa.Array) -> NDArray[np.int64]:
    """Item ids → numbers, 0 for an id that is not in the table."""
    return _lookup(values, known) + 1


def _lookup(values: Any, known: pa.Array) -> NDArray[np.int64]:
    """Index in `known`, -1 where there is none."""
    return _numpy(pc.fill_null(pc.index_in(pc.cast(values, pa.string()), value_set=known), -1), np.int64)


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return _numpy(column.combine_chunks().dictionary_encode().indices, np.int64)


def _numpy(column: Any, dtype: Any) -> NDArray[Any]:
    """A column as numpy; null integers read as 0 and null floats as NaN."""
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.int8())
    if not pa.types.is_floating(column.type):
        column = pc.fill_null(column, 0)
    return np.asarray(
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    ).astype(dtype)
