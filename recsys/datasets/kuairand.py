"""KuaiRand: short videos, every impression with what followed it (Gao et al., CIKM 2022, doi:10.1145/3511808.3557624).

Every row of a log is an impression, and may be more: `is_click` a click, a positive `play_time_ms` a dwell,
`is_like` a like, `long_view` a purchase (the conversion of a click; without a price), each a millisecond after
the one before: only the time of the exposure is known. The logs repeat some rows; an exposure is one (user,
video, time), so repeated ones merge into one event of each type.

Only what was known beforehand is read of the videos: their whole-period counts (`item_features.parquet`,
`video_features_statistic_*`) leak the future.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.events import MAX_TIME_MS
from recsys.contracts.types import MS_PER_MINUTE, EventType
from recsys.datasets.base import DRAFT_SCHEMA, Batch
from recsys.datasets.checks import Checker
from recsys.datasets.mapped import MappedDataset
from recsys.datasets.mapper import ItemContext, texts_by_name
from recsys.datasets.mapping import EventRule, EventTable, Files, ItemTable, Mapping, TimeColumn, UserTable
from recsys.datasets.reading import header, read_chunks
from recsys.lake.lake import TIME

HISTORY = "user_sequences.parquet"
SYNTHETIC_TIME = "synthetic_time"  # context of events whose order is known but not their time
_PARQUET_LOGS = ("train.parquet", "val.parquet", "test.parquet")
_HISTORY_EVENTS = (("long_watch_seq", (EventType.CLICK, EventType.PURCHASE)), ("like_seq", (EventType.LIKE,)))
_HISTORY_USERS = 2_000  # a chunk


def looks_like(folder: Path) -> bool:
    """Whether the folder has KuaiRand's videos."""
    return any(folder.glob("video_features_basic_*.csv"))


def kuairand(folder: Path) -> Mapping:
    """The publisher's CSV logs, or the same rows as Parquet."""
    logs = [name for name in _PARQUET_LOGS if (folder / name).exists()]
    return Mapping(
        events=EventTable(
            files=logs or ["log_*.csv"],
            user="user_id",
            item="video_id",
            time=TimeColumn(column="time_ms"),
            request=["user_id", "time_ms"],
            context={"tab": "tab"},
            events=[
                EventRule(type=EventType.IMPRESSION),
                EventRule(type=EventType.CLICK, when="is_click"),
                EventRule(type=EventType.DWELL, when="play_time_ms", value="play_time_ms"),
                EventRule(type=EventType.LIKE, when="is_like"),
                EventRule(type=EventType.PURCHASE, when="long_view"),
            ],
        ),
        items=ItemTable(
            files=["video_features_basic_*.csv"],
            item="video_id",
            categories="tag",
            separator=",",
            prefix="tag_",
            creator="author_id",
            created=TimeColumn(column="upload_dt", unit="iso"),
            attributes={
                "duration_ms": "video_duration",
                **{name: name for name in ("video_type", "upload_type", "music_type")},
            },
        ),
        users=_users(folder),
    )


def _users(folder: Path) -> UserTable | None:
    files = Files(files=["user_features_*.csv"])
    paths = sorted(folder.glob(files.files[0]))
    if not paths:
        return None
    attributes = [name for name in header(paths[0], files) if name != "user_id"]
    return UserTable(**files.model_dump(), user="user_id", attributes={name: name for name in attributes})


@dataclass(frozen=True)
class KuaiRand(MappedDataset):
    """The logs, and before them the history of `user_sequences.parquet`, where there is one.

    The history has an order but no times: the last long watches and likes of each user, and the time of the
    user's last exposure. The last one of each sequence gets that time (or the minute before the log's first
    row, if that is earlier), each one before it a minute less. Long watches give click and purchase, likes give
    like; each has `synthetic_time` in its context. No impression is made up.
    """

    def events(self, catalogue: pa.Table) -> Iterator[Batch]:
        path = self.folder / HISTORY
        if path.exists():
            before = self._first_time() - MS_PER_MINUTE
            known = ItemContext(catalogue)
            with pq.ParquetFile(path) as file:
                for users in file.iter_batches(_HISTORY_USERS):
                    last = np.minimum(np.asarray(users.column("last_time_ms")), before)
                    for column, types in _HISTORY_EVENTS:
                        yield Batch(_history(users, column, types, last, known))
        yield from super().events(catalogue)

    def _first_time(self) -> int:
        table = self.mapping.events
        chunks = read_chunks(self.folder, table, [table.time.column])
        times = (Checker(chunk).time(table.time) for chunk in chunks)
        return min((int(found[found > 0].min()) for found in times if found.any()), default=MAX_TIME_MS)


def _history(
    users: pa.RecordBatch,
    column: str,
    types: tuple[EventType, ...],
    last: NDArray[np.int64],
    known: ItemContext,
) -> pa.Table:
    sequences = users.column(column)
    owner = pc.list_parent_indices(sequences)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(sequences), 0))
    ends = np.cumsum(lengths)
    from_end = np.repeat(ends, lengths) - np.arange(ends[-1] if len(ends) else 0) - 1
    items = pc.cast(pc.list_flatten(sequences), pa.string())
    count = len(items)
    columns = {
        "user_id": pc.cast(users.column("user_id"), pa.string()).take(owner),
        "item_id": items,
        TIME: pa.array(np.repeat(last, lengths) - from_end * MS_PER_MINUTE),
        "context": texts_by_name({**known.of(items), SYNTHETIC_TIME: pa.repeat(pa.scalar("1"), count)}),
    }
    empty = {
        f.name: pa.nulls(count, f.type) for f in DRAFT_SCHEMA if f.name not in columns and f.name != "type"
    }
    drafts = [
        {
            **columns,
            **empty,
            "type": pa.repeat(pa.scalar(str(kind)), count),
            TIME: pc.add(columns[TIME], later),
        }
        for later, kind in enumerate(types)
    ]
    return pa.concat_tables(
        [
            pa.Table.from_arrays([draft[name] for name in DRAFT_SCHEMA.names], schema=DRAFT_SCHEMA)
            for draft in drafts
        ]
    )
