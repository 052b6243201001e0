"""A set of features: its columns, what must be stored for them, and the fold of one event."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import UnknownFeature
from recsys.contracts.events import Event
from recsys.contracts.state import Delta, History, Op, Visit
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.features.aggregates import (
    BUCKETS,
    CATEGORIES_PER_EVENT,
    KEY_MARK,
    Aggregate,
    Entity,
    Measure,
    Split,
    looks_at,
    once_period_ms,
    split_buckets,
)
from recsys.features.kinds import Attribute
from recsys.features.spec import Feature, Total, plain

_FORMAT = 1  # of states; a change of cell names or of the fold's meaning changes every fingerprint


class Once(NamedTuple):
    """Cells of an item that grow by one with the first event of this key, whichever arrives first."""

    key: bytes  # 16 bytes, of signal, user, item and tile
    until_ms: int  # no later event has the key
    cells: tuple[str, ...]


class Folded(NamedTuple):
    """What one event changes: cells of its user, cells of its item, histories of its user."""

    user: list[Delta]
    item: list[Delta]
    visits: list[tuple[History, Visit]]
    once: Sequence[Once] = ()

    def of_item(self, known: set[bytes]) -> list[Delta]:
        """Every change of the item, where the keys in `known` have counted; adds the event's own."""
        fresh = [once for once in self.once if once.key not in known]
        known.update(once.key for once in fresh)
        return [*self.item, *(Delta(cell, Op.ADD, 1) for once in fresh for cell in once.cells)]


Changes = tuple[list[Delta], list[Delta]]
NOT_SPLIT = -1  # in place of a bucket
ONCE_BYTES = 16


class FeatureSet:
    """Features in column order, and the deduplicated state that they need.

    `histories` are stored in addition to those that features read; the seen filter and the models read them. `tallied`:
    totals of the user by category that models read of all categories at once (`recsys.features.tally`). `weighed`: what
    no feature reads, but the items' engagement is weighed by (`recsys.features.item_weights`).
    """

    def __init__(
        self,
        features: Sequence[Feature],
        histories: Iterable[History] = (),
        tallied: Sequence[Total] = (),
        weighed: Sequence[Total] = (),
    ) -> None:
        self.features = tuple(features)
        self.names: tuple[str, ...] = tuple(name for f in self.features for name in f.columns)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"feature names must differ: {sorted(self.names)}")
        self.totals: tuple[Total, ...] = tuple(dict.fromkeys(t for f in self.features for t in f.totals))
        self.tallied = tuple(tallied)
        self.aggregates = _aggregates([*self.totals, *self.tallied, *weighed])
        read = [query.history for f in self.features for query in f.history_queries]
        self.histories = _histories([*histories, *read])
        self._aggregate_by_key = {(a.entity, a.name): a for a in self.aggregates}
        self.plans = {t: Plan(t, self.aggregates, self.histories) for t in EventType}

    @property
    def dimension(self) -> int:
        """D: how many columns a feature matrix has."""
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all definitions. Sets with the same fingerprint have the same state and the same values."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """JSON-ready: all definitions."""
        return {
            "format": _FORMAT,
            "buckets": BUCKETS,
            "categories_per_event": CATEGORIES_PER_EVENT,
            "histories": [{"name": h.name, "types": sorted(h.types), "size": h.size} for h in self.histories],
            "state": [{"name": f"{a.entity}/{a.name}", "hop_ms": a.hop_ms} for a in self.aggregates],
            "features": [f.describe() for f in self.features],
            "tallied": [plain(total) for total in self.tallied],
        }

    def aggregate(self, entity: Entity, name: str) -> Aggregate | None:
        """The aggregate that owns the cells of that name; None for cells of another feature set."""
        return self._aggregate_by_key.get((entity, name))

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The features that are an attribute of user, item or request."""
        return tuple(f for f in self.features if isinstance(f, Attribute))

    @property
    def user_attributes(self) -> frozenset[str]:
        """Names of the users' attributes that some feature reads: what serving loads of a user table."""
        return frozenset(f.attribute for f in self.attributes if f.entity is Entity.USER)

    def column(self, name: str) -> int:
        """The index of a column in a feature matrix. Raises `UnknownFeature`: no definition has it."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UnknownFeature(f"{name}: no such feature; see `recsys features list`") from None

    def placed(self, wanted: Callable[[Feature], bool]) -> tuple[tuple[Feature, ...], NDArray[np.intp]]:
        """The features that `wanted` selects, and the matrix columns that they fill, in order."""
        picked = tuple(f for f in self.features if wanted(f))
        names = [name for f in picked for name in f.columns]
        return picked, np.array([self.names.index(name) for name in names], dtype=np.intp)

    def fold(self, event: Event) -> Folded:
        """The changes that one event makes. The feature worker's hot path: one plan per event type."""
        return self.plans[event.type].fold(event)


def runs(columns: NDArray[np.intp]) -> list[tuple[slice, slice]]:
    """Consecutive `columns` as (slice of the feature matrix, slice of `columns`), because slices copy quickly.

    >>> runs(np.array([4, 5, 9]))
    [(slice(4, 6, None), slice(0, 2, None)), (slice(9, 10, None), slice(2, 3, None))]
    """
    starts = np.flatnonzero(np.diff(columns, prepend=-2) != 1).tolist()
    bounds = pairwise([*starts, len(columns)])
    return [(slice(int(columns[a]), int(columns[a]) + b - a), slice(a, b)) for a, b in bounds]


class Plan:
    """What an event of one type changes.

    Most rules add the same to a cell that depends on time, categories, creator or item only: their deltas are cached.
    `rules`: in the order in which their cells are changed, without what counts `once`.
    """

    def __init__(
        self, type_: EventType, aggregates: Iterable[Aggregate], histories: Iterable[History]
    ) -> None:
        rules = [a for a in aggregates if type_ in a.types]
        once: dict[tuple[str, int], list[Aggregate]] = defaultdict(list)
        for rule in rules:
            if rule.once:
                once[rule.name.partition(".")[0], once_period_ms(rule.hop_ms)].append(rule)
        self.once = [CountedOnce(signal, period_ms, of) for (signal, period_ms), of in once.items()]
        rules = [a for a in rules if not a.once]
        plain = [a for a in rules if a.measure in _STEADY and a.min_value is None]
        self._other = [a for a in rules if a not in plain]
        self._whole = _Steady([a for a in plain if a.split is Split.NONE])
        by_split = [(split, _Steady([a for a in plain if a.split is split])) for split in Split if split]
        self._by_split = [(split, steady) for split, steady in by_split if steady.rules]
        steadies = self._whole, *(steady for _, steady in self._by_split)
        self.rules = [*chain.from_iterable(steady.rules for steady in steadies), *self._other]
        self.histories = [h for h in histories if type_ in h.types]

    def fold(self, event: Event) -> Folded:
        time, named, categories = event.event_time_ms, event.request_id is not None, event.categories
        looks = looks_at(event.position)
        user, item = self._whole.changes(time, named, looks, (NOT_SPLIT,))
        user, item = [*user], [*item]
        for split, steady in self._by_split:
            if buckets := split_buckets(split, event):
                of_user, of_item = steady.changes(time, named, looks, buckets)
                user += of_user
                item += of_item
        for aggregate in self._other:
            if aggregate.accepts(event):
                (user if aggregate.entity is Entity.USER else item).extend(aggregate.fold(event))
        visits = []
        if self.histories:
            visit = Visit(time, event.event_id, event.type, event.item_id, categories)
            visits = [(history, visit) for history in self.histories]
        return Folded(user, item, visits, [once.of(event) for once in self.once if once.accepts(event)])


class CountedOnce:
    """Rules of one signal that count each user of an item once in a period."""

    def __init__(self, signal: str, period_ms: int, rules: Sequence[Aggregate]) -> None:
        self.accepts = rules[0].accepts  # of one signal, all accept the same events
        self.signal, self.period_ms, self.rules = signal, period_ms, rules
        self._cells = lru_cache(maxsize=1 << 10)(self._cells_of)

    def of(self, event: Event) -> Once:
        tile = event.event_time_ms // self.period_ms
        # no id contains the separator
        named = f"{self.signal}\x1f{self.period_ms}\x1f{tile}\x1f{event.user_id}\x1f{event.item_id}"
        key = blake2b(named.encode(), digest_size=ONCE_BYTES).digest()
        return Once(key, (tile + 1) * self.period_ms - 1, self._cells(tile))

    def _cells_of(self, tile: int) -> tuple[str, ...]:
        return tuple(rule.stem(tile * self.period_ms) for rule in self.rules)


class _Steady:
    """Rules of one split that add 1, or the looks at a position: their changes are cached, as they stay the same until
    the finest tile ends."""

    def __init__(self, rules: Sequence[Aggregate]) -> None:
        self.rules = rules
        self._examined = any(a.measure is Measure.EXAMINED for a in rules)
        # hops divide one another
        self._hop_ms = min((a.hop_ms for a in rules if a.hop_ms), default=MS_PER_DAY)
        self._cached = lru_cache(maxsize=1 << 14)(
            self._make
        )  # items have 2^12 buckets, each attributed or not

    def changes(self, time_ms: int, named: bool, looks: int, buckets: tuple[int, ...]) -> Changes:
        """Of the user and of the item. `named`: the event has the id of the request that showed the item."""
        return self._cached(time_ms // self._hop_ms, named, looks if self._examined else 1, buckets)

    def _make(self, tile: int, named: bool, looks: int, buckets: tuple[int, ...]) -> Changes:
        user: list[Delta] = []
        item: list[Delta] = []
        for rule in self.rules:
            if named or not rule.attributed:
                stem = rule.stem(tile * self._hop_ms)
                into = user if rule.entity is Entity.USER else item
                amount = 1 if rule.measure is Measure.ONE else looks
                into += [
                    Delta(stem if b == NOT_SPLIT else f"{stem}{KEY_MARK}{b}", rule.op, amount)
                    for b in buckets
                ]
        return user, item


_STEADY = (Measure.ONE, Measure.EXAMINED)
_ONCE = (Entity.ITEM, Measure.ONE, Split.NONE)


def _aggregates(totals: Sequence[Total]) -> tuple[Aggregate, ...]:
    """One aggregate per (entity, name), stored as long as its longest window needs."""
    retention: dict[tuple[Entity, str], int] = defaultdict(int)
    owners: dict[tuple[Entity, str], Total] = {}
    for total in totals:
        key = (total.entity, total.aggregate_name)
        owner = owners.setdefault(key, total)
        if owner.signal != total.signal:
            raise ValueError(f"two signals are called {total.signal.name}")
        if total.signal.op is not Op.ADD and total.window.hop_ms:
            raise ValueError(f"{total.signal.name}: a {total.signal.op.name} is kept for all time only")
        if total.signal.once and (total.entity, total.signal.measure, total.split) != _ONCE:
            raise ValueError(f"{total.signal.name}: only an item's users are counted once, without a split")
        retention[key] = max(retention[key], total.window.retention_ms)
    return tuple(owners[key].aggregate(retention[key]) for key in sorted(owners))


def _histories(histories: Iterable[History]) -> tuple[History, ...]:
    by_name: dict[str, History] = {}
    for history in histories:
        if by_name.setdefault(history.name, history) != history:
            raise ValueError(f"two histories are called {history.name}")
    return tuple(by_name.values())
