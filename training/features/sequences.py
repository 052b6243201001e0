"""One row per user with all engagements, oldest first: what the two-tower is trained on."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.merges import Merges
from recsys.contracts.types import ENGAGEMENT
from training.features.arrow_columns import OWNER, TIME, sorted_events
from training.features.members import NO_MERGES, of_persons

_LISTS = {"items": pa.string(), "times": pa.int64(), "types": pa.string()}
SEQUENCE_SCHEMA = pa.schema([("user_id", pa.string()), *((n, pa.list_(t)) for n, t in _LISTS.items())])
_ENGAGEMENT = pa.array(sorted(str(kind) for kind in ENGAGEMENT))


def sequences(rows: pa.Table, merges: Merges = NO_MERGES) -> pa.Table:
    """The sequences of some users, from all events of all their members; users by id."""
    rows = rows.filter(pc.is_in(rows.column("type"), value_set=_ENGAGEMENT))
    if not rows.num_rows:
        return SEQUENCE_SCHEMA.empty_table()
    rows = sorted_events(of_persons(rows, merges), OWNER)
    users = rows.column(OWNER).combine_chunks()
    starts = np.flatnonzero(np.concatenate(([True], np.asarray(pc.not_equal(users[1:], users[:-1])))))
    offsets = pa.array(np.append(starts, len(users)), pa.int32())
    lists = {
        name: pa.ListArray.from_arrays(offsets, rows.column(column).combine_chunks())
        for name, column in (("items", "item_id"), ("times", TIME), ("types", "type"))
    }
    return pa.table({"user_id": users.take(pa.array(starts)), **lists}).cast(SEQUENCE_SCHEMA)
