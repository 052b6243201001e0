"""Users' histories read from the lake with numpy, for evaluation: Spark would take longer to start."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType, Item
from recsys.lake.lake import TIME, days, read_day
from training.two_tower.sequences import History


def lake_histories(lake: Path, items: Sequence[Item], types: Collection[EventType]) -> list[History]:
    """Every user's events of these types on known items, by (event time, event id); users by id.

    Raises:
        InvalidData: the lake has no such event.
    """
    ids = pa.array([item.item_id for item in items], pa.string())
    kinds = pa.array([str(kind) for kind in EventType])
    wanted = pa.array([str(kind) for kind in types])
    parts = []
    for day in days(lake):
        table = read_day(lake, day, columns=["user_id", "item_id", "type"])
        parts.append(table.filter(pc.is_in(table.column("type"), wanted)).drop_columns(["event_id"]))
    events = pa.concat_tables(parts) if parts else None
    if events is None or not events.num_rows:
        raise InvalidData(
            f"{lake}: no {', '.join(sorted(types))} events; import a data set: `recsys data import`"
        )
    known = events.filter(pc.is_in(events.column("item_id"), ids))
    users = known.column("user_id").combine_chunks().dictionary_encode()
    # days are in order, and so are the events of a day
    order = np.argsort(np.asarray(users.indices), kind="stable")
    numbers = np.asarray(pc.index_in(known.column("item_id"), ids), np.int64)[order] + 1
    type_numbers = np.asarray(pc.index_in(known.column("type"), kinds), np.int64)[order] + 1
    times = np.asarray(known.column(TIME), np.int64)[order]
    counts = np.bincount(np.asarray(users.indices), minlength=len(users.dictionary))
    bounds = np.concatenate(([0], np.cumsum(counts)))
    histories = [
        History(str(user), numbers[start:end], type_numbers[start:end], times[start:end])
        for user, start, end in zip(users.dictionary.to_pylist(), bounds[:-1], bounds[1:], strict=True)
    ]
    return sorted(histories, key=lambda h: h.user_id)
