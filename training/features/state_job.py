"""The state at a time, computed from the lake: the same cells and histories as the stream's.

`recsys features backfill` loads it into an empty store; `recsys bench parity` compares the stream with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import from_arrow_schema

from recsys.contracts.events import MAX_TIME_MS, Event
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import EventType
from recsys.features.aggregates import KEY_MARK, TILE_MARK, Entity
from recsys.features.definitions import FEATURES
from recsys.features.event_columns import EventColumns
from recsys.store.backfill import Covered, Loaded, StateRow, backfill, dedupe_since
from recsys.store.base import FeatureStore, StateDefinition
from training.features.arrow_columns import TIME, Codes, event_columns, sorted_events
from training.features.feature_job import FeatureJob
from training.features.read_log import read_events

_VISIT = [(name, pa.string()) for name in ("history", "event_id", "type", "item_id", "categories")]
STATE_SCHEMA = pa.schema(
    [
        ("entity", pa.string()),
        ("id", pa.string()),
        ("cells", pa.list_(pa.string())),
        ("amounts", pa.list_(pa.int64())),
        ("visits", pa.list_(pa.struct([*_VISIT, (TIME, pa.int64())]))),
        ("latest_ms", pa.int64()),  # the latest event time in it
    ]
)


def state(spark: SparkSession, job: FeatureJob, before_ms: int) -> DataFrame:
    """Every user's and item's state from the events strictly before `before_ms`, one row each (`STATE_SCHEMA`)."""
    events = read_events(spark, job).where(sf.col(TIME) < before_ms)
    schema = from_arrow_schema(STATE_SCHEMA)
    users = events.groupBy("user_bucket").applyInArrow(user_states, schema)
    return users.union(events.groupBy("item_bucket").applyInArrow(item_states, schema))


def load_state(
    spark: SparkSession,
    job: FeatureJob,
    covered: Sequence[Covered],
    open_store: Callable[[StateDefinition], FeatureStore],
    partitions: int,
    dedupe_ms: int,
) -> Loaded:
    """Load the lake's state into an empty store. The lake must hold exactly what `covered` says: no archiver writes."""
    watermark_ms = min((c.watermark_ms for c in covered if c.watermark_ms), default=0)
    recent = _recent(read_events(spark, job), dedupe_ms, watermark_ms)
    states = _rows(state(spark, job, MAX_TIME_MS))
    return backfill(FEATURES, open_store, partitions, states, recent, covered)


def _rows(states: DataFrame) -> Iterator[StateRow]:
    for row in states.toLocalIterator(prefetchPartitions=True):
        state_ = entity_state(row.asDict(recursive=True))
        yield StateRow(Entity(row["entity"]), row["id"], state_, row["latest_ms"])


def _recent(events: DataFrame, dedupe_ms: int, watermark_ms: int) -> Iterator[Event]:
    """The events that tell what is counted already; see `dedupe_since`.

    `watermark_ms`: of the partition furthest behind; 0 if the lake does not know it: then the newest event's time.
    """
    since = dedupe_since(watermark_ms or events.agg(sf.max(TIME)).collect()[0][0] or 0, dedupe_ms)
    columns = "event_id", "type", "user_id", "item_id", TIME, "value", "request_id"
    recent = events.where(sf.col(TIME) >= since).select(*columns)
    for row in recent.toLocalIterator(prefetchPartitions=True):
        yield Event(**row.asDict() | {"type": EventType(row["type"])})


def user_states(rows: pa.Table) -> pa.Table:
    """The states of some users, from all their events."""
    return _states(rows, Entity.USER, "user_id")


def item_states(rows: pa.Table) -> pa.Table:
    """The states of some items, from all their events."""
    return _states(rows, Entity.ITEM, "item_id")


def _states(rows: pa.Table, entity: Entity, key: str) -> pa.Table:
    rows = sorted_events(rows, key)
    keys = Codes(rows.column(key))
    events = event_columns(rows, key, keys, Codes(rows.column("item_id")))
    n = len(keys.ids)
    cells = _cells(entity, events, n)
    columns = {
        "entity": [entity.value] * n,
        "id": keys.ids,
        "cells": [list(c) for c in cells],
        "amounts": [list(c.values()) for c in cells],
        "visits": _visits(rows, events, n) if entity is Entity.USER else [[]] * n,
        "latest_ms": events.time_ms[np.searchsorted(events.key, np.arange(n), side="right") - 1],
    }
    return pa.table(columns, schema=STATE_SCHEMA)


def entity_state(row: Mapping[str, Any]) -> EntityState:
    """One row of `STATE_SCHEMA` as the store's type."""
    result = EntityState(dict(zip(row["cells"], row["amounts"], strict=True)))
    for v in row["visits"]:
        categories = tuple(v["categories"].split(CATEGORY_SEPARATOR)) if v["categories"] else ()
        visit = Visit(v[TIME], v["event_id"], EventType(v["type"]), v["item_id"], categories)
        result.histories.setdefault(v["history"], []).append(visit)
    return result


def _cells(entity: Entity, columns: EventColumns, n: int) -> list[dict[str, int]]:
    """Cell name → amount, for each key."""
    result: list[dict[str, int]] = [{} for _ in range(n)]
    for aggregate in FEATURES.aggregates:
        if aggregate.entity is not entity:
            continue
        for key, tile, bucket, amount in zip(*(a.tolist() for a in columns.cells(aggregate)), strict=True):
            stem = f"{aggregate.name}{TILE_MARK}{tile}" if tile >= 0 else aggregate.name
            result[key][f"{stem}{KEY_MARK}{bucket}" if bucket >= 0 else stem] = amount
    return result


def _visits(rows: pa.Table, columns: EventColumns, n: int) -> list[list[dict[str, Any]]]:
    """The latest visits of each history, oldest first. `rows` and `columns` are in the same order."""
    result: list[list[dict[str, Any]]] = [[] for _ in range(n)]
    for history in FEATURES.histories:
        types = pa.array(sorted(map(str, history.types)))
        at = np.flatnonzero(np.asarray(pc.is_in(rows.column("type"), value_set=types)))
        ends = np.searchsorted(columns.key[at], np.arange(n), side="right")
        keep = ends[columns.key[at]] - np.arange(at.size) <= history.size
        picked = rows.select([TIME, "event_id", "type", "item_id", "categories"]).take(pa.array(at[keep]))
        for key, visit in zip(columns.key[at[keep]].tolist(), picked.to_pylist(), strict=True):
            result[key].append({"history": history.name, **visit})
    return result
