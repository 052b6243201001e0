"""KuaiRand: impressions of short videos with the responses (Gao et al., CIKM 2022, doi:10.1145/3511808.3557624).

Each row of a log is an impression. It is also a click (`is_click`), a dwell (positive `play_time_ms`), a like
(`is_like`) and a purchase (`long_view`: the conversion of a click, without a price), each a millisecond after the one
before, since only the time of the impression is known. Some rows are repeated; an impression is one (user, video,
time), so they merge into one event of each type.

Counts of videos over the whole period (`item_features.parquet`, `video_features_statistic_*`) leak the future and are
not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_MINUTE, EventType
from recsys.datasets.base import DRAFT_SCHEMA, Batch
from recsys.datasets.checks import Checker
from recsys.datasets.mapper import SYNTHETIC_TIME, ItemContext, MappedDataset, texts_by_name
from recsys.datasets.mapping import EventRule, EventTable, Files, ItemTable, Mapping, TimeColumn, UserTable
from recsys.datasets.reading import Chunk, header, parquet_chunks
from recsys.lake.lake import TIME

HISTORY = "user_sequences.parquet"
_PARQUET_LOGS = ("train.parquet", "val.parquet", "test.parquet")
_HISTORY_EVENTS = (("long_watch_seq", (EventType.CLICK, EventType.PURCHASE)), ("like_seq", (EventType.LIKE,)))
_USER, _LAST_MS = "user_id", "last_time_ms"
_HISTORY_USERS = 2_000  # per chunk


def looks_like(folder: Path) -> bool:
    """Whether the folder has KuaiRand's table of videos."""
    return any(folder.glob("video_features_basic_*.csv"))


def kuairand(folder: Path) -> Mapping:
    """The publisher's CSV logs, the same rows as Parquet, or both: an event of both counts once."""
    logs = [name for name in _PARQUET_LOGS if (folder / name).exists()]
    csv_logs = ["log_*.csv"] if any(folder.glob("log_*.csv")) else []
    return Mapping(
        events=EventTable(
            files=[*logs, *csv_logs] or ["log_*.csv"],
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
    """The logs, preceded by the history of `user_sequences.parquet`, if present.

    The history has each user's last long watches and likes in order, and the time of the last impression, but no
    other times. The last entry of each sequence gets that time (at the latest a minute before the log's first row),
    each entry before it a minute less. A long watch gives a click and a purchase, a like gives a like, each with
    `synthetic_time` in its context. The history gives no impressions.
    """

    def events(self, catalogue: pa.Table) -> Iterator[Batch]:
        path = self.folder / HISTORY
        if path.exists():
            span, known = self.span(), ItemContext(catalogue)
            before = (span.first_ms if span else self.latest_ms) - MS_PER_MINUTE
            sequences = [column for column, _ in _HISTORY_EVENTS]
            columns = [_USER, _LAST_MS, *sequences]
            for chunk in parquet_chunks(path, HISTORY, columns, sequences, _HISTORY_USERS):
                cells = Checker(chunk)
                last = np.minimum(cells.time(TimeColumn(column=_LAST_MS), self.plausible), before)
                yield _history(chunk, cells, last, known)
        yield from super().events(catalogue)


def _history(chunk: Chunk, cells: Checker, last: NDArray[np.int64], known: ItemContext) -> Batch:
    """The events of some users. A row with an invalid user, time or video is broken as a whole."""
    users = cells.identifier(_USER)
    for column, _ in _HISTORY_EVENTS:
        owner, videos = _flat(chunk.table.column(column))
        single = Checker(Chunk(chunk.file, pa.table({column: videos}), chunk.numbers[owner]))
        single.identifier(column)
        bad = np.zeros(len(cells), dtype=bool)
        bad[owner[~single.good]] = True
        cells.flag(bad, column, "has an invalid id")
    good = pa.array(cells.good)
    rows = chunk.table.filter(good)
    users, last = users.filter(good), last[cells.good]
    drafts = [
        _sequence_events(rows.column(column), types, users, last, known) for column, types in _HISTORY_EVENTS
    ]
    return cells.batch(pa.concat_tables(drafts))


def _flat(sequences: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """The row of each video, and its id as text."""
    lists = sequences.combine_chunks()
    return np.asarray(pc.list_parent_indices(lists)), pc.cast(pc.list_flatten(lists), pa.string())


def _sequence_events(
    sequences: pa.ChunkedArray,
    types: tuple[EventType, ...],
    users: pa.Array,
    last: NDArray[np.int64],
    known: ItemContext,
) -> pa.Table:
    owner, items = _flat(sequences)
    count = len(items)
    ends = np.cumsum(np.bincount(owner, minlength=len(users)))
    from_end = ends[owner] - np.arange(count) - 1
    times = pa.array(last[owner] - from_end * MS_PER_MINUTE)
    columns = {
        "user_id": users.take(pa.array(owner)),
        "item_id": items,
        "context": texts_by_name({**known.of(items), SYNTHETIC_TIME: pa.repeat(pa.scalar("1"), count)}),
    }
    drafts = []
    for later_ms, kind in enumerate(types):
        columns["type"] = pa.repeat(pa.scalar(str(kind)), count)
        columns[TIME] = pc.add(times, later_ms)
        arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in DRAFT_SCHEMA]
        drafts.append(pa.Table.from_arrays(arrays, schema=DRAFT_SCHEMA))
    return pa.concat_tables(drafts)
