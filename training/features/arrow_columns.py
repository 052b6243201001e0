"""Arrow rows → the arrays of the batch kernel. Runs in Spark's executors: numpy and Arrow only."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.events import EVENT_KEY
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import EventType
from recsys.features.aggregates import (
    CATEGORIES_PER_EVENT,
    Entity,
    Split,
    bucket_of,
    category_buckets,
    creator_buckets,
)
from recsys.features.batch import BatchSource
from recsys.features.event_columns import NO_BUCKET, EventColumns, Queries
from recsys.features.feature_set import FeatureSet
from recsys.features.spec import Feature
from recsys.lake.first_of_each import first_of_each

TIME = "event_time_ms"
OWNER = "owner"  # whose features a row enters: `training.features.members`
KINDS = pa.array([str(kind) for kind in EventType])


def sorted_events(rows: pa.Table, key: str) -> pa.Table:
    """Rows by (key, event time, event id, user), each event once, or once per owner: retries may have sent it twice."""
    order = [(name, "ascending") for name in dict.fromkeys((key, TIME, "event_id", "user_id"))]
    same = (OWNER, *EVENT_KEY) if key == OWNER else EVENT_KEY
    return first_of_each(rows.take(pc.sort_indices(rows, sort_keys=order)), *same).combine_chunks()


class Codes:
    """Numbers for the ids of some columns: `of(column)` gives -1 for any other id."""

    def __init__(self, *columns: pa.ChunkedArray) -> None:
        self.ids = pc.unique(
            pa.chunked_array(list(chain.from_iterable(c.chunks for c in columns)), pa.string())
        )

    def of(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        return np.asarray(pc.fill_null(pc.index_in(column, value_set=self.ids), -1), np.int64)


def event_columns(rows: pa.Table, key: str, keys: Codes, items: Codes) -> EventColumns:
    """The kernel's arrays of rows from `sorted_events(rows, key)`.

    `attributed` may stand for `request_id`; without categories and creator their splits are empty.
    """
    codes = keys.of(rows.column(key))
    # codes follow first appearance, not the ids: sort by code, keeping time order
    order = np.argsort(codes, kind="stable")
    names, missing = rows.column_names, pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    attributed = (
        rows.column("attributed") if "attributed" in names else pc.is_valid(rows.column("request_id"))
    )
    categories, creators = (
        rows.column(name) if name in names else missing for name in ("categories", "creator")
    )
    buckets = _buckets(categories, creators, rows.column("item_id"))
    value = np.asarray(pc.fill_null(rows.column("value"), np.nan), np.float64)
    position = np.asarray(pc.fill_null(rows.column("position"), -1), np.int64)
    return EventColumns(
        key=codes[order],
        time_ms=np.asarray(rows.column(TIME), np.int64)[order],
        kind=np.asarray(pc.index_in(rows.column("type"), value_set=KINDS)).astype(np.int8)[order],
        value=value[order],
        position=position[order],
        attributed=np.asarray(attributed)[order],
        user=Codes(rows.column("user_id")).of(rows.column("user_id"))[order],
        item=items.of(rows.column("item_id"))[order],
        buckets={split: of_rows[order] for split, of_rows in buckets.items()},
    )


def queries(
    rows: pa.Table, key: str, keys: Codes, items: Codes, attributes: Mapping[tuple[Entity, str], str]
) -> Queries:
    """The kernel's arrays of examples. `attributes`: (entity, name) → the column with its texts."""
    unknown = pa.chunked_array([pa.nulls(rows.num_rows, pa.int64())])
    created = rows.column("created_ms") if "created_ms" in rows.column_names else unknown
    return Queries(
        key=keys.of(rows.column(key)),
        time_ms=np.asarray(rows.column(TIME), np.int64),
        item=items.of(rows.column("item_id")),
        buckets=_buckets(*(rows.column(name) for name in ("categories", "creator", "item_id"))),
        created_ms=np.asarray(pc.fill_null(created, 0), np.int64),
        attributes={pair: rows.column(column).to_pylist() for pair, column in attributes.items()},
    )


def attribute_columns(features: FeatureSet, *entities: Entity) -> dict[tuple[Entity, str], str]:
    """(entity, name) of each attribute that features of these entities read → a column name for its texts."""
    read = dict.fromkeys((f.entity, f.attribute) for f in features.attributes if f.entity in entities)
    return {(entity, name): f"{entity.value}__{name}" for entity, name in read}


def fill(
    matrix: NDArray[np.float32], picked: tuple[Sequence[Feature], NDArray[np.intp]], source: BatchSource
) -> None:
    """Write the values of some features into their columns of `matrix` (q, D)."""
    features, columns = picked
    values = chain.from_iterable(feature.values(source) for feature in features)
    for column, value in zip(columns.tolist(), values, strict=True):
        matrix[:, column] = value


def _buckets(
    categories: pa.ChunkedArray, creators: pa.ChunkedArray, items: pa.ChunkedArray
) -> dict[Split, NDArray[np.int64]]:
    """What the kernel splits rows by: (n, 4) of categories, (n, 1) of the creator and of the item's id."""
    return {
        Split.CATEGORY: _per_text(
            categories, CATEGORIES_PER_EVENT, lambda t: category_buckets(tuple(t.split(CATEGORY_SEPARATOR)))
        ),
        Split.CREATOR: _per_text(creators, 1, creator_buckets),
        Split.ITEM: _per_text(items, 1, lambda item_id: (bucket_of(item_id),)),
    }


def _per_text(column: pa.ChunkedArray, width: int, buckets: Any) -> NDArray[np.int64]:
    """Each distinct text is hashed once."""
    encoded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    table = np.full((len(encoded.dictionary) + 1, width), NO_BUCKET, np.int64)
    for row, text in enumerate(encoded.dictionary.to_pylist()):
        found = buckets(text) if text else ()
        table[row, : len(found)] = found
    result: NDArray[np.int64] = table[np.asarray(encoded.indices)]
    return result
