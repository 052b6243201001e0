"""Events as the Spark job's flat rows, for tests that run its kernels without Spark."""

from collections.abc import Sequence

import pyarrow as pa

from recsys.contracts.events import CATEGORIES, CREATOR, Event
from recsys.contracts.types import Item, User
from training.features.kernel import ITEM_TEXTS, REQUEST_TEXTS, USER_TEXTS

_TYPES = {"event_time_ms": pa.int64(), "position": pa.int64(), "value": pa.float64()}


def event_rows(events: Sequence[Event]) -> pa.Table:
    """The columns that `training.features.job` selects from the lake."""
    context = {"categories": CATEGORIES, "creator": CREATOR} | {
        c: name for (_, name), c in REQUEST_TEXTS.items()
    }
    names = ("event_id", "type", "user_id", "item_id", "event_time_ms", "request_id", "position", "value")
    columns = {n: pa.array([getattr(e, n) for e in events], _TYPES.get(n, pa.string())) for n in names}
    for column, key in context.items():
        columns[column] = pa.array([e.context.get(key) for e in events], pa.string())
    return pa.table(columns)


def with_items(examples: pa.Table, items: Sequence[Item]) -> pa.Table:
    """What the job's join with the item table adds."""
    known = {i.item_id: i for i in items}
    rows = [known.get(item_id) for item_id in examples.column("item_id").to_pylist()]
    created = pa.array([i.created_ms if i else None for i in rows], pa.int64())
    examples = examples.append_column("created_ms", created)
    for (_, name), column in ITEM_TEXTS.items():
        texts = [i.attributes.get(name) if i else None for i in rows]
        examples = examples.append_column(column, pa.array(texts, pa.string()))
    return examples


def with_users(examples: pa.Table, users: Sequence[User]) -> pa.Table:
    """What the job's join with the user table adds."""
    known = {u.user_id: u for u in users}
    rows = [known.get(user_id) for user_id in examples.column("user_id").to_pylist()]
    for (_, name), column in USER_TEXTS.items():
        texts = [u.attributes.get(name) if u else None for u in rows]
        examples = examples.append_column(column, pa.array(texts, pa.string()))
    return examples
