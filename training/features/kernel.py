"""What the Spark job runs on the executors: a bucket of examples and their keys' events → features. No Spark here."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.merges import Merges
from recsys.contracts.types import ENGAGEMENT
from recsys.features.aggregates import Entity
from recsys.features.batch import BatchSource
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.features.event_columns import EventColumns, Queries
from recsys.features.tally import batch_tally
from recsys.features.visits import spans_before
from training.features.arrow_columns import (
    OWNER,
    TIME,
    Codes,
    attribute_columns,
    event_columns,
    fill,
    queries,
    sorted_events,
)
from training.features.labels import ITEM_CONTEXT, example_schema
from training.features.members import NO_MERGES, owned
from training.features.packing import (
    HISTORY,
    OF_A_LIST,
    TALLY,
    bytes_of,
    first_of_list,
    lists_at,
    matrix_of,
)

USER_TEXTS = attribute_columns(FEATURES, Entity.USER)
ITEM_TEXTS = attribute_columns(FEATURES, Entity.ITEM)
REQUEST_TEXTS = attribute_columns(FEATURES, Entity.CONTEXT)
BARE_SCHEMA = example_schema(tuple(REQUEST_TEXTS.values()))

_ITEM_SIDE = FEATURES.placed(lambda f: f.entity is Entity.ITEM)
_OTHER_SIDE = FEATURES.placed(lambda f: f.entity is not Entity.ITEM)

_TEXTS = {*ITEM_CONTEXT, *REQUEST_TEXTS.values()}
EXAMPLE_SCHEMA = pa.schema(
    [
        *(f for f in BARE_SCHEMA if f.name not in _TEXTS),
        *((name, pa.list_(of)) for name, of in OF_A_LIST.items()),
        ("features", pa.binary()),
    ]
)


def item_side(examples: pa.Table, events: pa.Table) -> pa.Table:
    """Append `item_features` to bare examples; `events` are all events of their items."""
    events = sorted_events(events, "item_id")
    items = Codes(events.column("item_id"))
    columns = event_columns(events, "item_id", items, items)
    asked = queries(examples, "item_id", items, items, ITEM_TEXTS)
    matrix = np.zeros((examples.num_rows, FEATURES.dimension), np.float32)
    fill(matrix, _ITEM_SIDE, BatchSource(Entity.ITEM, columns, asked))
    side = bytes_of(matrix[:, _ITEM_SIDE[1]])
    return examples.select(BARE_SCHEMA.names).append_column("item_features", side)


def user_side(examples: pa.Table, events: pa.Table, merges: Merges = NO_MERGES) -> pa.Table:
    """Complete the features and add the histories; `events` are all events of all members of the examples' users. Rows
    are packed (`training.features.packing`)."""
    examples, events = owned(examples, events, merges)
    events = sorted_events(events, OWNER)
    order = [("user_id", "ascending"), (TIME, "ascending"), ("example_id", "ascending")]
    examples = examples.take(pc.sort_indices(examples, sort_keys=order))
    users = Codes(events.column(OWNER))
    items = Codes(events.column("item_id"))
    columns = event_columns(events, OWNER, users, items)
    asked = queries(examples, OWNER, users, items, USER_TEXTS | REQUEST_TEXTS)
    matrix = np.empty((examples.num_rows, FEATURES.dimension), np.float32)
    matrix[:, _ITEM_SIDE[1]] = matrix_of(examples.column("item_features"), _ITEM_SIDE[1].size)
    source = BatchSource(Entity.USER, columns, asked)
    fill(matrix, _OTHER_SIDE, source)
    first = first_of_list(examples)
    lists = _histories(events, users, asked, first) | _tallies(columns, asked, first)
    labels = {n: examples.column(n) for n in EXAMPLE_SCHEMA.names if n in examples.column_names}
    return pa.table(labels | lists | {"features": bytes_of(matrix)}).select(EXAMPLE_SCHEMA.names)


def _tallies(events: EventColumns, asked: Queries, first: NDArray[np.bool_]) -> dict[str, pa.Array]:
    """What the user had looked at and clicked in every category, as list columns."""
    of_lists = replace(asked, key=asked.key[first], time_ms=asked.time_ms[first])
    bounds, buckets, amounts = batch_tally(FEATURES, BatchSource(Entity.USER, events, of_lists), of_lists)
    lists = (buckets, *np.ascontiguousarray(amounts.T))
    return {
        name: lists_at(first, bounds, pa.array(column)) for name, column in zip(TALLY, lists, strict=True)
    }


def _histories(
    events: pa.Table, users: Codes, asked: Queries, first: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """The latest engagements before each instant, oldest first, as list columns."""
    keys, times = asked.key[first], asked.time_ms[first]
    engaged = events.filter(pc.is_in(events.column("type"), value_set=pa.array(sorted(map(str, ENGAGEMENT)))))
    of_events = users.of(engaged.column(OWNER)), np.asarray(engaged.column(TIME))
    starts, ends = spans_before(*of_events, keys, times, ENGAGED_VISITS.size)
    lengths = ends - starts
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    at = engaged.take(pa.array(rows))
    return {
        name: lists_at(first, offsets, at.column(column).combine_chunks())
        for name, column in zip(HISTORY, ("item_id", "type", TIME), strict=True)
    }
