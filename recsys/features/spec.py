"""What a feature is: a name, the integers it reads, and how they become one float32.

A `Signal` says which events count and what they add. A `Total` is a signal of one entity over one window. A
`Feature` (its kinds are in `kinds`) reads totals, histories and attributes from a `Source` and finishes them. There are
three sources (a state from the store, the batch kernel's arrays, the brute-force oracle of the tests) and one
finaliser for all of them.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import History, Op
from recsys.contracts.types import EventType
from recsys.features.aggregates import Aggregate, Entity, Measure, Split
from recsys.features.windows import HOP_CODES, Window

# A number for one (user, item) pair, or an array (N,) of them; numbers broadcast.
Ints: TypeAlias = int | NDArray[np.int64]
Floats: TypeAlias = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Signal:
    """Which events count, and what each adds; the fields are those of `Aggregate`."""

    name: str
    types: frozenset[EventType]
    measure: Measure = Measure.ONE
    op: Op = Op.ADD
    min_value: float | None = None
    scale: int = 1
    attributed: bool = False


@dataclass(frozen=True)
class Total:
    """A signal of a user or an item over one window.

    With a `split`, the part of the candidate's categories (summed) or creator: a total of a user *and* an item.
    """

    entity: Entity
    signal: Signal
    window: Window
    split: Split = Split.NONE

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # totals are dictionary keys of the request path; the hash of all their parts would be half of its time
        return zlib.crc32(f"{self.entity} {self.aggregate_name} {self.window.label}".encode())

    @cached_property
    def aggregate_name(self) -> str:
        """Totals with the same name share their cells."""
        code = HOP_CODES[self.window.hop_ms] + self.split[:2]
        return f"{self.signal.name}.{code}" if code else self.signal.name

    def aggregate(self, retention_ms: int) -> Aggregate:
        return Aggregate(
            name=self.aggregate_name,
            entity=self.entity,
            types=self.signal.types,
            measure=self.signal.measure,
            op=self.signal.op,
            hop_ms=self.window.hop_ms,
            retention_ms=retention_ms,
            split=self.split,
            min_value=self.signal.min_value,
            scale=self.signal.scale,
            attributed=self.signal.attributed,
        )


@cache
def total_of(entity: Entity, signal: Signal, window: Window, split: Split = Split.NONE) -> Total:
    """The one `Total` of these parts: dictionaries find it by identity, without comparing all that it consists of."""
    return Total(entity, signal, window, split)


class Match(StrEnum):
    """Which visits of a history are meant."""

    ANY = "any"
    ITEM = "item"  # of the candidate itself
    CATEGORY = "category"  # that share one of the candidate's categories


# A set of visits is a bit mask in an int64 (bit 0: the oldest), whose highest bit float64 still finds exactly.
MAX_VISITS = 52


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Those of the latest `newest` visits of a history that match. `newest` is at most `MAX_VISITS`."""

    history: History
    newest: int
    match: Match = Match.ANY

    def __post_init__(self) -> None:
        if not 0 < self.newest <= min(MAX_VISITS, self.history.size):
            raise ValueError(
                f"{self.history.name}: a query reads 1 … {MAX_VISITS} visits, at most the history's size"
            )


class Source(Protocol):
    """Integers as of an instant: everything strictly before `now_ms`, nothing at or after it."""

    @property
    def now_ms(self) -> Ints: ...

    def total(self, total: Total) -> Ints:
        """The weighted sum; for MIN and MAX the cell, 0 where there is none."""

    def count(self, query: HistoryQuery) -> Ints:
        """How many of the visits match."""

    def latest_ms(self, query: HistoryQuery) -> Ints:
        """Event time of the latest matching visit; 0: none."""

    def attribute(self, entity: Entity, name: str, default: float, vocabulary: tuple[str, ...]) -> Floats:
        """An attribute of the user, the item or the request (`Entity.CONTEXT`) as a number; see `number`."""

    def categories(self) -> Ints:
        """How many categories the candidate has, at most `CATEGORIES_PER_EVENT`."""

    def created_ms(self) -> Ints:
        """When the candidate was created; 0: unknown."""


def number(text: str | None, default: float, vocabulary: tuple[str, ...]) -> float:
    """An attribute's text as a number: parsed, or with a vocabulary its place in it.

    `default` stands for missing, unreadable, infinite and unlisted texts alike.
    """
    if text is None:
        return default
    if vocabulary:
        return float(vocabulary.index(text)) if text in vocabulary else default
    try:
        value = float(text)
    except ValueError:
        return default
    return value if abs(value) < 1e12 else default  # also False for NaN


@dataclass(frozen=True)
class Feature:
    """Base of the kinds. `entity` says what the value depends on; a column for each window in `over`."""

    kind: ClassVar[str]
    ticking: ClassVar[bool] = False  # whether the value moves with the clock even while no tile ends
    name: str
    entity: Entity

    @property
    def columns(self) -> tuple[str, ...]:
        over: tuple[Window, ...] = getattr(self, "over", ())
        return tuple(f"{self.name}_{w.label}" for w in over) if over else (self.name,)

    @property
    def dimension(self) -> int:
        return len(self.columns)

    @cached_property
    def totals(self) -> Sequence[Total]:
        """Every total that `values` reads."""
        return ()

    @cached_property
    def history_queries(self) -> Sequence[HistoryQuery]:
        """Every history query that `values` makes."""
        return ()

    def values(self, source: Source) -> list[Floats]:
        """One number or array (N,) a column, float64; the caller casts to float32."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """JSON-ready: everything that the value depends on. The fingerprint is a hash of this."""
        return {"kind": self.kind} | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, (Signal, Window, History, Total, HistoryQuery)):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return str(value) if isinstance(value, StrEnum) else value
