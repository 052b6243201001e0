"""What the Spark job runs on the executors: a bucket of examples and their keys' events → features. No Spark here."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.aggregates import Entity
from recsys.features.batch import BatchSource, Queries, spans_before
from recsys.features.definitions import ENGAGED_VISITS, ENGAGEMENT, FEATURES
from recsys.features.tally import batch_tally
from training.features.arrow_columns import (
    TIME,
    Codes,
    attribute_columns,
    event_columns,
    fill,
    lists_of,
    matrix_of,
    queries,
    sorted_events,
)
from training.features.labels import ITEM_CONTEXT, example_schema

USER_TEXTS = attribute_columns(FEATURES, Entity.USER)
ITEM_TEXTS = attribute_columns(FEATURES, Entity.ITEM)
REQUEST_TEXTS = attribute_columns(FEATURES, Entity.CONTEXT)
BARE_SCHEMA = example_schema(tuple(REQUEST_TEXTS.values()))

_ITEM_SIDE = FEATURES.placed(lambda f: f.entity is Entity.ITEM)
_OTHER_SIDE = FEATURES.placed(lambda f: f.entity is not Entity.ITEM)

_LISTS = {"history_items": pa.string(), "history_types": pa.string(), "history_times": pa.int64()}
_TALLY = {"tally_buckets": pa.int64(), "tally_looks": pa.int64(), "tally_clicks": pa.int64()}
_LISTS |= _TALLY | {"features": pa.float32()}
_TEXTS = {*ITEM_CONTEXT, *REQUEST_TEXTS.values()}
EXAMPLE_SCHEMA = pa.schema(
    [*(f for f in BARE_SCHEMA if f.name not in _TEXTS), *((n, pa.list_(t)) for n, t in _LISTS.items())]
)


def item_side(examples: pa.Table, events: pa.Table) -> pa.Table:
    """Append `item_features` to bare examples; `events` are all events of their items."""
    events = sorted_events(events, "item_id")
    items = Codes(events.column("item_id"))
    columns = event_columns(events, "item_id", items, items)
    asked = queries(examples, "item_id", items, items, ITEM_TEXTS)
    matrix = np.zeros((examples.num_rows, FEATURES.dimension), np.float32)
    fill(matrix, _ITEM_SIDE, BatchSource(Entity.ITEM, columns, asked))
    side = lists_of(matrix[:, _ITEM_SIDE[1]])
    return examples.select(BARE_SCHEMA.names).append_column("item_features", side)


def user_side(examples: pa.Table, events: pa.Table) -> pa.Table:
    """Complete the features and add the histories; `events` are all events of the examples' users."""
    events = sorted_events(events, "user_id")
    order = [("user_id", "ascending"), (TIME, "ascending"), ("example_id", "ascending")]
    examples = examples.take(pc.sort_indices(examples, sort_keys=order))
    users = Codes(events.column("user_id"))
    items = Codes(events.column("item_id"))
    columns = event_columns(events, "user_id", users, items)
    asked = queries(examples, "user_id", users, items, USER_TEXTS | REQUEST_TEXTS)
    matrix = np.empty((examples.num_rows, FEATURES.dimension), np.float32)
    item_features = matrix_of(examples.column("item_features").chunks, _ITEM_SIDE[1].size)
    matrix[:, _ITEM_SIDE[1]] = item_features
    source = BatchSource(Entity.USER, columns, asked)
    fill(matrix, _OTHER_SIDE, source)
    lists = _histories(events, users, asked.key, asked.time_ms) | _tallies(source, asked)
    labels = {n: examples.column(n) for n in EXAMPLE_SCHEMA.names if n in examples.column_names}
    return pa.table(labels | lists | {"features": lists_of(matrix)}).select(EXAMPLE_SCHEMA.names)


def _tallies(source: BatchSource, asked: Queries) -> dict[str, pa.Array]:
    """What the user had looked at and clicked in every category, as list columns."""
    bounds, buckets, amounts = batch_tally(FEATURES, source, asked)
    lists = (buckets, *np.ascontiguousarray(amounts.T))
    offsets = pa.array(bounds, pa.int32())
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(column))
        for name, column in zip(_TALLY, lists, strict=True)
    }


def _histories(events: pa.Table, users: Codes, keys: Any, times: Any) -> dict[str, pa.Array]:
    """The latest engagements before each instant, oldest first, as list columns."""
    engaged = events.filter(pc.is_in(events.column("type"), value_set=pa.array(sorted(map(str, ENGAGEMENT)))))
    of_events = users.of(engaged.column("user_id")), np.asarray(engaged.column(TIME))
    starts, ends = spans_before(*of_events, keys, times, ENGAGED_VISITS.size)
    lengths = ends - starts
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    at = engaged.take(pa.array(rows))
    bounds = pa.array(offsets, pa.int32())
    return {
        name: pa.ListArray.from_arrays(bounds, at.column(column).combine_chunks())
        for name, column in (("history_items", "item_id"), ("history_types", "type"), ("history_times", TIME))
    }
