"""A set of features: its columns, what must be stored for them, and the fold of one event."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.errors import UnknownFeature
from recsys.events import Event
from recsys.features.kinds import Attribute
from recsys.features.spec import Feature, Look, Total
from recsys.features.state import (
    BUCKETS,
    CATEGORIES_PER_EVENT,
    KEY_MARK,
    TILE_MARK,
    Aggregate,
    Delta,
    Entity,
    History,
    Measure,
    Op,
    Split,
    Visit,
    category_buckets,
    creator_buckets,
)
from recsys.types import EventType

_FORMAT = 1  # of states; a change of cell names or of the fold's meaning changes every fingerprint


class Folded(NamedTuple):
    """What one event changes: cells of its user, cells of its item, histories of its user."""

    user: list[Delta]
    item: list[Delta]
    visits: list[tuple[History, Visit]]


class FeatureSet:
    """Features in column order, and the deduplicated state that they need.

    `histories` are kept besides those that features read (the seen filter and the models read them).
    """

    def __init__(self, features: Sequence[Feature], histories: Iterable[History] = ()) -> None:
        self.features = tuple(features)
        self.names: tuple[str, ...] = tuple(name for f in self.features for name in f.columns)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"feature names must differ: {sorted(self.names)}")
        self.totals: tuple[Total, ...] = tuple(dict.fromkeys(t for f in self.features for t in f.totals))
        self.looks: tuple[Look, ...] = tuple(dict.fromkeys(k for f in self.features for k in f.looks))
        self.aggregates = _aggregates(self.totals)
        self.histories = _histories([*histories, *(look.history for look in self.looks)])
        self._aggregate_by_key = {(a.entity, a.name): a for a in self.aggregates}
        self._plans = {t: _Plan(t, self.aggregates, self.histories) for t in EventType}

    @property
    def dimension(self) -> int:
        """D: how many columns a feature matrix has."""
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all definitions: two sets with the same fingerprint have the same state and the same values."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """JSON-ready: every definition, and what they share."""
        return {
            "format": _FORMAT,
            "buckets": BUCKETS,
            "categories_per_event": CATEGORIES_PER_EVENT,
            "histories": [{"name": h.name, "types": sorted(h.types), "size": h.size} for h in self.histories],
            "state": [{"name": f"{a.entity}/{a.name}", "hop_ms": a.hop_ms} for a in self.aggregates],
            "features": [f.describe() for f in self.features],
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
        """Names of the users' static attributes that some feature reads: what serving keeps of a user table."""
        return frozenset(f.attribute for f in self.attributes if f.entity is Entity.USER)

    def column(self, name: str) -> int:
        """The place of a column in a feature matrix.

        Raises:
            UnknownFeature: no definition has it.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise UnknownFeature(f"{name}: no such feature; see `recsys features list`") from None

    def placed(self, wanted: Callable[[Feature], bool]) -> tuple[tuple[Feature, ...], NDArray[np.intp]]:
        """The features that `wanted` picks, and the columns of a feature matrix that they fill, in order."""
        picked = tuple(f for f in self.features if wanted(f))
        names = [name for f in picked for name in f.columns]
        return picked, np.array([self.names.index(name) for name in names], dtype=np.intp)

    def fold(self, event: Event) -> Folded:
        """The changes that one event makes. The stream worker's hot path: a plan for each event type."""
        return self._plans[event.type].fold(event)


def runs(columns: NDArray[np.intp]) -> list[tuple[slice, slice]]:
    """`columns` as stretches: (where they lie in a feature matrix, where among themselves). Slices copy quickly.

    >>> runs(np.array([4, 5, 9]))
    [(slice(4, 6, None), slice(0, 2, None)), (slice(9, 10, None), slice(2, 3, None))]
    """
    starts = np.flatnonzero(np.diff(columns, prepend=-2) != 1).tolist()
    stretches = pairwise([*starts, len(columns)])
    return [(slice(int(columns[a]), int(columns[a]) + b - a), slice(a, b)) for a, b in stretches]


class _Rule(NamedTuple):
    """One aggregate that an event may change. `plain`: every event of the type adds 1."""

    name: str
    op: Op
    hop_ms: int
    split: Split
    plain: bool
    aggregate: Aggregate


def _rule(a: Aggregate) -> _Rule:
    plain = a.measure is Measure.ONE and a.min_value is None and not a.attributed
    return _Rule(a.name, a.op, a.hop_ms, a.split, plain, a)


class _Plan:
    """What an event of one type changes, prepared. Kept flat: it runs for every event."""

    def __init__(
        self, type_: EventType, aggregates: Iterable[Aggregate], histories: Iterable[History]
    ) -> None:
        rules = [_rule(a) for a in aggregates if type_ in a.types]
        self._hops = sorted({r.hop_ms for r in rules if r.hop_ms})
        self._user = [r for r in rules if r.aggregate.entity is Entity.USER]
        self._item = [r for r in rules if r.aggregate.entity is Entity.ITEM]
        self._histories = [h for h in histories if type_ in h.types]

    def fold(self, event: Event) -> Folded:
        time = event.event_time_ms
        categories = event.categories
        tiles = {hop: f"{TILE_MARK}{time // hop}" for hop in self._hops}
        tiles[0] = ""
        endings: Mapping[Split, list[str]] = {
            Split.NONE: [""],
            Split.CATEGORY: [f"{KEY_MARK}{bucket}" for bucket in category_buckets(categories)],
            Split.CREATOR: [f"{KEY_MARK}{b}" for b in creator_buckets(event.creator)],
        }
        visits = []
        if self._histories:
            visit = Visit(time, event.event_id, event.type, event.item_id, categories)
            visits = [(history, visit) for history in self._histories]
        return Folded(
            _deltas(self._user, event, tiles, endings), _deltas(self._item, event, tiles, endings), visits
        )


def _deltas(
    rules: list[_Rule], event: Event, tiles: Mapping[int, str], endings: Mapping[Split, list[str]]
) -> list[Delta]:
    deltas = []
    for name, op, hop_ms, split, plain, aggregate in rules:
        amount = 1
        if not plain:
            if not aggregate.accepts(event):
                continue
            amount = aggregate.amount(event)
        stem = name + tiles[hop_ms]
        if split is Split.NONE:
            deltas.append(Delta(stem, op, amount))
        else:
            deltas += [Delta(stem + ending, op, amount) for ending in endings[split]]
    return deltas


def _aggregates(totals: Sequence[Total]) -> tuple[Aggregate, ...]:
    """One aggregate for each (entity, name), kept as long as its longest window needs."""
    retention: dict[tuple[Entity, str], int] = defaultdict(int)
    owners: dict[tuple[Entity, str], Total] = {}
    for total in totals:
        key = (total.entity, total.aggregate_name)
        owner = owners.setdefault(key, total)
        if owner.signal != total.signal:
            raise ValueError(f"two signals are called {total.signal.name}")
        if total.signal.op is not Op.ADD and total.window.hop_ms:
            raise ValueError(f"{total.signal.name}: a {total.signal.op.name} is kept for all time only")
        retention[key] = max(retention[key], total.window.retention_ms)
    return tuple(owners[key].aggregate(retention[key]) for key in sorted(owners))


def _histories(histories: Iterable[History]) -> tuple[History, ...]:
    by_name: dict[str, History] = {}
    for history in histories:
        if by_name.setdefault(history.name, history) != history:
            raise ValueError(f"two histories are called {history.name}")
    return tuple(by_name.values())
