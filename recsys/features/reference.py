"""The reference: every integer straight from the list of events, by its definition.

It has no stored tiles, no cells, no cumulative sums and no weight tables: a decay is a power of two, computed with 60
digits. It is slow on purpose (chronon's `NaiveAggregator`). The tests and `recsys bench parity` compare the fold and
the batch kernel with it.
"""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal, localcontext
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.events import Event
from recsys.contracts.state import MAX_AMOUNT, MAX_SUM, Op
from recsys.contracts.types import MS_PER_DAY, Item, User
from recsys.features.aggregates import BUCKETS, CATEGORIES_PER_EVENT, OF_VALUES, Entity, Measure, Split
from recsys.features.feature_set import FeatureSet
from recsys.features.spec import Floats, HistoryQuery, Ints, Match, Signal, Total, number


def crc32(text: str) -> int:
    """CRC-32 (IEEE 802.3), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in text.encode():
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def buckets_of(categories: Sequence[str]) -> list[int]:
    return [crc32(c) % BUCKETS for c in categories[:CATEGORIES_PER_EVENT]]


def decay_weight(age: int, half_life: int) -> int:
    """floor(2^16 · 2^(-age / half_life))."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(2) ** (16 - Decimal(age) / half_life)
        nearest = exact.to_integral()
        return int(nearest if abs(exact - nearest) < Decimal("1e-40") else exact)


def look_weight(position: int | None) -> int:
    """round(1000 / log2(2 + position)), the hundredth position for all after it."""
    with localcontext() as context:
        context.prec = 60
        log2 = Decimal(2 + min(position or 0, 99)).ln() / Decimal(2).ln()
        return int((1000 / log2).to_integral())


def log2_steps(value: float) -> int:
    """floor(64 · log2(1 + value)), 1 + value in double precision."""
    with localcontext() as context:
        context.prec = 60
        exact = 64 * (Decimal(1.0 + max(value, 0.0)).ln() / Decimal(2).ln())
        nearest = exact.to_integral()
        return int(nearest if abs(exact - nearest) < Decimal("1e-13") else exact)


class ReferenceSource:
    """`Source` of one user and one item at one instant."""

    def __init__(
        self,
        events: Sequence[Event],
        user: User,
        item: Item,
        now_ms: int,
        context: Mapping[str, str],
        merged: Collection[str] = (),
    ) -> None:
        """`merged`: the other ids whose events are the user's."""
        self.now_ms: Ints = now_ms
        self._now = now_ms
        self._item = item
        earlier = [e for e in events if e.event_time_ms < now_ms]
        self._events = {
            Entity.USER: [e for e in earlier if e.user_id in (user.user_id, *merged)],
            Entity.ITEM: [e for e in earlier if e.item_id == item.item_id],
        }
        self._attributes = {
            Entity.USER: user.attributes,
            Entity.ITEM: item.attributes,
            Entity.CONTEXT: context,
        }

    def total(self, total: Total) -> Ints:
        signal, window = total.signal, total.window
        events = [e for e in self._events[total.entity] if _counts(signal, e)]
        if signal.op is not Op.ADD:
            times = [e.event_time_ms for e in events]
            return (max if signal.op is Op.MAX else min)(times, default=0)
        result = 0
        if signal.once:
            events = _one_of_each_user(events, window.hop_ms or MS_PER_DAY)
        for event in events:
            age = self._now // window.hop_ms - event.event_time_ms // window.hop_ms if window.hop_ms else 0
            if not window.skip <= age < window.tiles:
                continue
            weight = decay_weight(age, window.half_life) if window.half_life else 1
            result += weight * _amount(signal, event) * self._overlap(total.split, event)
        return min(result, MAX_SUM)

    def _overlap(self, split: Split, event: Event) -> int:
        """How many pairs of the candidate's and the event's buckets are equal; 1 without a split."""
        if split is Split.NONE:
            return 1
        if split is Split.CATEGORY:
            mine, theirs = buckets_of(self._item.categories), buckets_of(event.categories)
        elif split is Split.CREATOR:
            mine, theirs = ([crc32(c) % BUCKETS] if c else [] for c in (self._item.creator, event.creator))
        else:
            mine, theirs = ([crc32(i) % BUCKETS] for i in (self._item.item_id, event.item_id))
        return sum(a == b for a in mine for b in theirs)

    def _visits(self, query: HistoryQuery) -> list[Event]:
        events = [e for e in self._events[Entity.USER] if e.type in query.history.types]
        latest = sorted(events, key=lambda e: (e.event_time_ms, e.event_id, e.user_id))[-query.newest :]
        if query.match is Match.ITEM:
            return [e for e in latest if e.item_id == self._item.item_id]
        if query.match is Match.CATEGORY:
            mine = set(buckets_of(self._item.categories))
            return [e for e in latest if mine & set(buckets_of(e.categories))]
        return latest

    def count(self, query: HistoryQuery) -> Ints:
        return len(self._visits(query))

    def latest_ms(self, query: HistoryQuery) -> Ints:
        return max((e.event_time_ms for e in self._visits(query)), default=0)

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        return number(self._attributes[entity].get(name), default, vocabulary)

    def categories(self) -> Ints:
        return min(len(self._item.categories), CATEGORIES_PER_EVENT)

    def created_ms(self) -> Ints:
        return self._item.created_ms

    def tally(self, totals: Sequence[Total]) -> dict[int, tuple[int, ...]]:
        """Category bucket → each total, where one is not 0."""
        found: dict[int, list[int]] = {}
        for place, total in enumerate(totals):
            signal, window = total.signal, total.window
            for event in self._events[total.entity]:
                age = self._now // window.hop_ms - event.event_time_ms // window.hop_ms
                if not _counts(signal, event) or not window.skip <= age < window.tiles:
                    continue
                weight = decay_weight(age, window.half_life) if window.half_life else 1
                for bucket in buckets_of(event.categories):
                    found.setdefault(bucket, [0] * len(totals))[place] += weight * _amount(signal, event)
        return {bucket: tuple(min(total, MAX_SUM) for total in of) for bucket, of in found.items() if any(of)}


def reference_features(features: FeatureSet, source: ReferenceSource) -> NDArray[np.float32]:
    """(D,) float32."""
    return np.array(list(chain.from_iterable(f.values(source) for f in features.features)), np.float32)


def _counts(signal: Signal, event: Event) -> bool:
    if event.type not in signal.types or (signal.attributed and event.request_id is None):
        return False
    if signal.measure in OF_VALUES and event.value is None:
        return False
    return signal.min_value is None or (event.value is not None and event.value >= signal.min_value)


def _one_of_each_user(events: Sequence[Event], period_ms: int) -> list[Event]:
    """One of an item's events per user and period."""
    return [*{(e.user_id, e.event_time_ms // period_ms): e for e in events}.values()]


def _amount(signal: Signal, event: Event) -> int:
    if signal.measure is Measure.ONE:
        return 1
    if signal.measure is Measure.EXAMINED:
        return look_weight(event.position)
    if signal.measure is Measure.LOG2:
        return log2_steps(event.value or 0.0)
    return min(max(round((event.value or 0.0) * signal.scale), 0), MAX_AMOUNT)
