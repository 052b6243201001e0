"""The examples without Spark, of a log that fits in memory: the passes of `training.features.job` over one bucket."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.errors import InvalidData
from recsys.contracts.merges import Merges
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY
from recsys.datasets.catalogue import items_path, users_path
from recsys.datasets.lake_attribution import lake_attribution
from recsys.lake.lake import day_of, days, newest_days, read_day, start_of
from recsys.lake.merges import read_merges
from recsys.lake.parquet import read_columns
from training.features.arrow_columns import TIME
from training.features.direct_files import write_days
from training.features.event_counts import EventCounts
from training.features.kernel import ITEM_TEXTS, REQUEST_TEXTS, USER_TEXTS, item_side, user_side
from training.features.labels import EVENT_COLUMNS, ITEM_CONTEXT, LabelConfig, label
from training.features.members import homes_of
from training.features.negatives import Popularity

_PART_EVENTS = 500_000  # of the users whose examples are made at a time


def build_examples(lake: Path, output: Path, newest: int = 0, negatives: int = 4, seed: int = 0) -> int:
    """Write the examples of each day to `output`/dt=…; returns their number. The rows are those of the Spark job, for
    up to a million choices; nothing is judged (`FeatureJob.trust`), since the events are the caller's own.

    Args:
        newest: only the newest days that have this many events together; 0: all.

    Raises:
        InvalidData: the lake has no events.
    """
    events = flat_events(lake)
    loose = pc.is_null(events.column("request_id"))
    counts, attribution = _counts(events, loose), lake_attribution(lake)
    wanted = newest_days(counts.of_days, newest) if newest else sorted(counts.of_days)
    config = LabelConfig(
        first_ms=start_of(wanted[0]),
        end_ms=start_of(wanted[-1]) + MS_PER_DAY,
        window_ms=attribution.window_ms,
        unshown=counts.unshown,
        only_named=attribution.only_named(*counts.by_type()),
        negatives=negatives,
        seed=seed,
    )
    chosen = pc.is_in(events.column("type"), pa.array([str(kind) for kind in config.unshown & ENGAGEMENT]))
    popularity = Popularity.of(events.filter(pc.and_(chosen, loose)))
    written, merges = 0, Merges(read_merges(lake))
    for part, theirs in enumerate(_by_users(events, config.first_ms, config.end_ms, merges)):
        rows = label(theirs, config, tuple(REQUEST_TEXTS.values()), popularity)
        rows = item_side(_joined(rows, items_path(lake), "item_id", ITEM_TEXTS, "created_ms"), events)
        rows = user_side(_joined(rows, users_path(lake), "user_id", USER_TEXTS), theirs, merges)
        write_days(output, rows, part)
        written += rows.num_rows
    return written


def _by_users(events: pa.Table, first_ms: int, end_ms: int, merges: Merges) -> Iterator[pa.Table]:
    """All events of the users who have some in that time, in parts of some users each. Merged users are in one."""
    homes = homes_of(events.column("user_id"), merges)
    times = events.column(TIME)
    asked = pc.and_(pc.greater_equal(times, first_ms), pc.less(times, end_ms))
    users = pc.unique(homes.filter(asked))
    place = pc.index_in(homes, value_set=users)
    counts = np.bincount(pc.drop_null(place).to_numpy())
    part_of = (np.cumsum(counts) - counts) // _PART_EVENTS
    for part in np.unique(part_of):
        own = pa.array(np.flatnonzero(part_of == part), pa.int32())
        yield events.filter(pc.is_in(place, value_set=own))


def flat_events(lake: Path) -> pa.Table:
    """All events, with what features read of their context as columns of text.

    Raises:
        InvalidData: there are none.
    """
    names = {**dict.fromkeys(ITEM_CONTEXT), **{column: name for (_, name), column in REQUEST_TEXTS.items()}}
    parts = []
    for day in days(lake):
        part = read_day(lake, day, columns=(*EVENT_COLUMNS, "context"))
        context = part.column("context")
        texts = {column: pc.map_lookup(context, name or column, "first") for column, name in names.items()}
        parts.append(pa.table({name: part.column(name) for name in EVENT_COLUMNS} | texts))
    if not any(part.num_rows for part in parts):
        raise InvalidData(f"{lake}: no events; import a data set first: `recsys data import`")
    return pa.concat_tables(parts)


def _counts(events: pa.Table, loose: pa.ChunkedArray) -> EventCounts:
    day = pc.divide(events.column(TIME), MS_PER_DAY)
    keys = pa.table({"day": day, "type": events.column("type"), "loose": loose})
    found = keys.group_by(keys.column_names).aggregate([([], "count_all")]).to_pylist()
    return EventCounts(
        {(day_of(row["day"] * MS_PER_DAY), row["type"], row["loose"]): row["count_all"] for row in found}
    )


def _joined(rows: pa.Table, path: Path, key: str, texts: Mapping[Any, str], *more: str) -> pa.Table:
    """Add the attributes of items or users that features read, and the columns `more`; null where unknown."""
    table = read_columns(path, [key, "attributes", *more])
    place = pc.index_in(rows.column(key), value_set=table.column(key))
    for column in more:
        rows = rows.append_column(column, table.column(column).take(place))
    for (_, name), column in texts.items():
        texts_of = pc.map_lookup(table.column("attributes"), name, "first")
        rows = rows.append_column(column, texts_of.take(place))
    return rows
