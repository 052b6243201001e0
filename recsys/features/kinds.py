"""The kinds of features: how integers become one float.

Values are made with exact IEEE operations only (+, -, ·, /) in a fixed order, without transcendental functions, so
Python numbers and numpy arrays give the same bits. Models normalise their inputs themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND
from recsys.features.aggregates import Entity, Split
from recsys.features.spec import Feature, Floats, HistoryQuery, Ints, Signal, Source, Total, total_of
from recsys.features.windows import Window

EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


def where(condition: Any, yes: Floats, no: Floats) -> Floats:
    """`yes if condition else no`, element by element for arrays."""
    if isinstance(condition, np.ndarray):
        result: NDArray[np.float64] = np.where(condition, yes, no)
        return result
    return yes if condition else no


def at_least_one(n: Ints) -> Ints:
    """max(n, 1): a divisor, for callers that handle 0 themselves."""
    return np.maximum(n, 1) if isinstance(n, np.ndarray) else max(n, 1)


@dataclass(frozen=True)
class Count(Feature):
    """How often, over the windows in `over`; with a `split`, how often for the candidate's part."""

    kind = "count"
    signal: Signal
    over: tuple[Window, ...]
    split: Split = Split.NONE

    @cached_property
    def totals(self) -> Sequence[Total]:
        return [total_of(_owner(self.entity), self.signal, w, self.split) for w in self.over]

    def values(self, source: Source) -> list[Floats]:
        return [source.total(t) / t.unit for t in self.totals]


@dataclass(frozen=True)
class Ratio(Feature):
    """Smoothed ratio (part + α) / (whole + α + β), such as CTR and CVR. α + β > 0."""

    kind = "ratio"
    part: Signal
    whole: Signal
    over: tuple[Window, ...]
    alpha: float
    beta: float
    split: Split = Split.NONE

    @cached_property
    def totals(self) -> Sequence[Total]:
        owner = _owner(self.entity)
        return [total_of(owner, s, w, self.split) for w in self.over for s in (self.part, self.whole)]

    def values(self, source: Source) -> list[Floats]:
        totals = self.totals
        pairs = zip(totals[::2], totals[1::2], strict=True)
        return [
            (source.total(part) / part.unit + self.alpha)
            / (source.total(whole) / whole.unit + (self.alpha + self.beta))
            for part, whole in pairs
        ]


@dataclass(frozen=True)
class Mean(Feature):
    """Mean of what a signal adds (dwell milliseconds, stars) over the events that count; `default` without any."""

    kind = "mean"
    amount: Signal
    events: Signal
    over: tuple[Window, ...]
    default: float = 0.0

    @cached_property
    def totals(self) -> Sequence[Total]:
        return [total_of(self.entity, s, w) for w in self.over for s in (self.amount, self.events)]

    def values(self, source: Source) -> list[Floats]:
        totals = self.totals
        columns = []
        for amount, events in zip(totals[::2], totals[1::2], strict=True):
            n = source.total(events)
            mean = source.total(amount) / (at_least_one(n) * self.amount.scale)
            columns.append(where(n > 0, mean, self.default))
        return columns


@dataclass(frozen=True)
class Affinity(Feature):
    """Share of the user's events that fell on the candidate's categories (mean of their shares) or creator."""

    kind = "affinity"
    signal: Signal
    over: tuple[Window, ...]
    split: Split
    default: float = 0.0

    @cached_property
    def totals(self) -> Sequence[Total]:
        return [total_of(Entity.USER, self.signal, w, s) for w in self.over for s in (self.split, Split.NONE)]

    def values(self, source: Source) -> list[Floats]:
        parts = source.categories() if self.split is Split.CATEGORY else 1
        totals = self.totals
        columns = []
        for part, whole in zip(totals[::2], totals[1::2], strict=True):
            base = source.total(whole) * parts
            share = source.total(part) / at_least_one(base)
            columns.append(where(base > 0, share, self.default))
        return columns


@dataclass(frozen=True)
class Lift(Feature):
    """A ratio of the candidate's categories or creator, minus the user's own ratio.

    (part_c + k·m) / (whole_c + k) - m, where m is the user's smoothed ratio over everything and k the `strength`; 0
    for a category without events. A ranker compares items of one user, so only what differs between candidates
    matters.
    """

    kind = "lift"
    part: Signal
    whole: Signal
    over: tuple[Window, ...]
    split: Split
    alpha: float
    beta: float
    strength: float

    @cached_property
    def totals(self) -> Sequence[Total]:
        return [
            total_of(Entity.USER, signal, w, split)
            for w in self.over
            for split in (self.split, Split.NONE)
            for signal in (self.part, self.whole)
        ]

    def values(self, source: Source) -> list[Floats]:
        totals = self.totals
        columns = []
        for i in range(0, len(totals), 4):
            part_c, whole_c, part, whole = (source.total(t) / t.unit for t in totals[i : i + 4])
            mean = (part + self.alpha) / (whole + (self.alpha + self.beta))
            columns.append((part_c + self.strength * mean) / (whole_c + self.strength) - mean)
        return columns


@dataclass(frozen=True)
class Recency(Feature):
    """Seconds since the signal's latest event (a MAX of times); `default` when there was none."""

    kind = "recency"
    ticking = True
    signal: Signal
    over: tuple[Window, ...]
    default: float = -1.0

    @cached_property
    def totals(self) -> Sequence[Total]:
        return [total_of(self.entity, self.signal, w) for w in self.over]

    def values(self, source: Source) -> list[Floats]:
        return [_seconds_since(source.total(t), source.now_ms, self.default) for t in self.totals]


@dataclass(frozen=True)
class VisitCount(Feature):
    """How many of the latest visits match the candidate; with `share`, which share of them."""

    kind = "visit_count"
    query: HistoryQuery
    share: bool = False

    @cached_property
    def history_queries(self) -> Sequence[HistoryQuery]:
        every = HistoryQuery(self.query.history, self.query.newest)
        return (self.query, every) if self.share else (self.query,)

    def values(self, source: Source) -> list[Floats]:
        count = source.count(self.query)
        if not self.share:
            return [count / 1]
        n = source.count(self.history_queries[1])
        return [count / at_least_one(n)]


@dataclass(frozen=True)
class VisitRecency(Feature):
    """Seconds since the latest visit that matches the candidate; `default` when none does."""

    kind = "visit_recency"
    ticking = True
    query: HistoryQuery
    default: float = -1.0

    @cached_property
    def history_queries(self) -> Sequence[HistoryQuery]:
        return (self.query,)

    def values(self, source: Source) -> list[Floats]:
        return [_seconds_since(source.latest_ms(self.query), source.now_ms, self.default)]


@dataclass(frozen=True)
class Attribute(Feature):
    """A static attribute of user, item or request as a number, or as its index in a vocabulary."""

    kind = "attribute"
    attribute: str
    default: float = -1.0
    vocabulary: tuple[str, ...] = ()

    def values(self, source: Source) -> list[Floats]:
        return [source.attribute(self.entity, self.attribute, self.default, self.vocabulary)]


@dataclass(frozen=True)
class ItemAge(Feature):
    """Days since the item was created; `default` where that is unknown."""

    kind = "item_age"
    ticking = True
    default: float = -1.0

    def values(self, source: Source) -> list[Floats]:
        created = source.created_ms()
        age = (source.now_ms - created) / MS_PER_DAY
        return [where(created > 0, _not_negative(age), self.default)]


@dataclass(frozen=True)
class CategoryCount(Feature):
    """How many categories the item has."""

    kind = "category_count"

    def values(self, source: Source) -> list[Floats]:
        return [source.categories() / 1]


@dataclass(frozen=True)
class HourOfDay(Feature):
    """0 … 23, UTC."""

    kind = "hour_of_day"
    ticking = True

    def values(self, source: Source) -> list[Floats]:
        return [source.now_ms // MS_PER_HOUR % 24 / 1]


@dataclass(frozen=True)
class Weekday(Feature):
    """0 (Monday) … 6, UTC."""

    kind = "weekday"
    ticking = True

    def values(self, source: Source) -> list[Floats]:
        return [(source.now_ms // MS_PER_DAY + EPOCH_WEEKDAY) % 7 / 1]


def _owner(entity: Entity) -> Entity:
    """Whose state a feature reads: a user × item feature reads the user's."""
    return Entity.USER if entity is Entity.USER_ITEM else entity


def _seconds_since(then_ms: Ints, now_ms: Ints, default: float) -> Floats:
    return where(then_ms > 0, _not_negative((now_ms - then_ms) / MS_PER_SECOND), default)


def _not_negative(x: Floats) -> Floats:
    return np.maximum(x, 0.0) if isinstance(x, np.ndarray) else max(x, 0.0)
