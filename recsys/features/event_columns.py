"""Events and the instants at which features are wanted, as columns: what the batch kernel reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import MAX_AMOUNT, MAX_SUM, Op
from recsys.contracts.types import EventType
from recsys.features.aggregates import (
    BUCKETS,
    LOG2_SCALE,
    LOG2_STEPS,
    LOOKS_AT,
    OF_VALUES,
    Aggregate,
    Entity,
    Measure,
    Split,
    once_period_ms,
)
from recsys.features.spec import Signal

Array = NDArray[np.int64]
KIND = {kind: code for code, kind in enumerate(EventType)}  # how `EventColumns.kind` numbers the types
NO_BUCKET = BUCKETS  # pads rows of buckets
TIME_BITS = 42  # Unix milliseconds up to the year 2109; above them 2^20 keys
_LOOKS_AT = np.array(LOOKS_AT, np.int64)


@dataclass(frozen=True)
class EventColumns:
    """The events of some users, or of some items, sorted by (key, time, event id), each event once.

    Arrays (n,). `key`: code of the user (item) that owns the event; `user`, `item`: codes of the event's; `value`: NaN
    where the event has none; `position`: -1 where it has none; `buckets`: split → (n, k), padded with `NO_BUCKET`.
    """

    key: Array
    time_ms: Array
    kind: NDArray[np.int8]
    value: NDArray[np.float64]
    position: Array
    attributed: NDArray[np.bool_]
    user: Array
    item: Array
    buckets: Mapping[Split, Array]

    def amounts(self, signal: Signal | Aggregate, hop_ms: int) -> tuple[Array, Array]:
        """(rows, amounts) of the events that count in tiles of `hop_ms`."""
        chosen = np.isin(self.kind, [KIND[t] for t in signal.types])
        if signal.attributed:
            chosen &= self.attributed
        if signal.measure in OF_VALUES:
            chosen &= ~np.isnan(self.value)
        if signal.min_value is not None:
            chosen &= self.value >= signal.min_value  # False for NaN
        rows = np.flatnonzero(chosen)
        if signal.once:
            rows = self._first_of_each_user(rows, once_period_ms(hop_ms))
        if signal.measure is Measure.ONE:
            return rows, np.ones(rows.size, np.int64)
        if signal.measure is Measure.TIME:
            return rows, self.time_ms[rows]
        if signal.measure is Measure.EXAMINED:
            return rows, _LOOKS_AT[np.clip(self.position[rows], 0, _LOOKS_AT.size - 1)]
        if signal.measure is Measure.LOG2:
            mantissas, exponents = np.frexp(1.0 + np.maximum(self.value[rows], 0.0))
            steps = np.searchsorted(LOG2_STEPS, 2 * mantissas, side="right") - 1
            return rows, (exponents.astype(np.int64) - 1) * LOG2_SCALE + steps
        # rint rounds halves to even, as Python's round does
        return rows, np.rint(self.value[rows] * signal.scale).clip(0, MAX_AMOUNT).astype(np.int64)

    def _first_of_each_user(self, rows: Array, period_ms: int) -> Array:
        pairs = np.stack((self.time_ms[rows] // period_ms, self.user[rows], self.key[rows]))
        order = np.lexsort(pairs)  # stable: the earliest of equal ones comes first
        first: Array = np.any(np.diff(pairs[:, order], axis=1, prepend=-1), axis=0)
        return rows[np.sort(order[first])]

    def cells(self, aggregate: Aggregate) -> tuple[Array, Array, Array, Array]:
        """(key, tile, bucket, amount) of every cell of an aggregate; -1 where the cell's name has no such part."""
        rows, amounts = self.amounts(aggregate, aggregate.hop_ms)
        buckets = np.full(rows.size, -1, np.int64)
        if aggregate.split is not Split.NONE:
            split = self.buckets[aggregate.split][rows]
            there = split.ravel() != NO_BUCKET
            rows, amounts = rows.repeat(split.shape[1])[there], amounts.repeat(split.shape[1])[there]
            buckets = split.ravel()[there]
        hop = aggregate.hop_ms
        tiles = self.time_ms[rows] // hop if hop else np.full(rows.size, -1, np.int64)
        order = np.lexsort((buckets, tiles, self.key[rows]))
        cells = np.stack((self.key[rows], tiles, buckets))[:, order]
        first = np.flatnonzero(np.any(np.diff(cells, axis=1, prepend=-2), axis=0))
        ends = np.append(first[1:], order.size)[: first.size]  # none for no events
        if aggregate.op is not Op.ADD:  # times, sorted within a key: events are
            place = ends - 1 if aggregate.op is Op.MAX else first
            return (*cells[:, first], amounts[order][place])
        sums = np.concatenate(([0], np.cumsum(amounts[order], dtype=np.int64)))
        return (*cells[:, first], np.minimum(sums[ends] - sums[first], MAX_SUM))


@dataclass(frozen=True)
class Queries:
    """The instants at which features are wanted. Arrays (q,); codes and buckets as in `EventColumns`.

    `key` is -1 for a user (item) without events. `attributes`: (entity, name) → (q,) texts, None where missing.
    """

    key: Array
    time_ms: Array
    item: Array
    buckets: Mapping[Split, Array]
    created_ms: Array
    attributes: Mapping[tuple[Entity, str], Sequence[str | None]]
