"""What a feature is: a name, the integers it reads, and how they become one float32.

A `Signal` says which events count and what they add. A `Total` is a signal of one entity over one window. A `Feature`
(its kinds are in `kinds`) computes values from the totals, histories and attributes of a `Source`. There are three
sources: a state from the store, the batch kernel's arrays, and the brute-force reference.
"""

import zlib
from abc import ABC, abstractmethod
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

# a number, or an array (N,) with one per candidate
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
    once: bool = False


@dataclass(frozen=True)
class Total:
    """A signal of a user or an item over one window.

    With a `split`, only the candidate's categories (summed), creator or id count: a total of a user *and* an item.
    """

    entity: Entity
    signal: Signal
    window: Window
    split: Split = Split.NONE

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # totals are dictionary keys on the request path; hashing all their fields would take half of its time
        return zlib.crc32(f"{self.entity} {self.aggregate_name} {self.window.label}".encode())

    @cached_property
    def unit(self) -> int:
        """What an event of age 0 that adds 1 adds to the total."""
        return self.window.unit * self.signal.scale

    @cached_property
    def aggregate_name(self) -> str:
        """Totals of the same name share cells."""
        code = HOP_CODES[self.window.hop_ms] + self.split[:2]
        return f"{self.signal.name}.{code}" if code else self.signal.name

    def aggregate(self, retention_ms: int) -> Aggregate:
        signal = {f.name: getattr(self.signal, f.name) for f in fields(self.signal)}
        return Aggregate(
            **signal
            | {
                "name": self.aggregate_name,
                "entity": self.entity,
                "hop_ms": self.window.hop_ms,
                "retention_ms": retention_ms,
                "split": self.split,
            }
        )


@cache
def total_of(entity: Entity, signal: Signal, window: Window, split: Split = Split.NONE) -> Total:
    """The one `Total` of these fields: dictionaries find it by identity, without comparing fields."""
    return Total(entity, signal, window, split)


class Match(StrEnum):
    """Which visits of a history are meant."""

    ANY = "any"
    ITEM = "item"  # of the candidate itself
    CATEGORY = "category"  # that share one of the candidate's categories


# a set of visits is a bit mask in an int64 (bit 0: the oldest); float64 finds its highest bit exactly
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
    """Integers as of an instant: everything strictly before `now_ms`."""

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
    """An attribute's text as a number: parsed, or its index in the vocabulary.

    `default` stands for missing, unreadable, infinite and unlisted texts.

    >>> number("31", -1.0, ()), number("F", -1.0, ("F", "M")), number("x", -1.0, ())
    (31.0, 0.0, -1.0)
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
class Feature(ABC):
    """Base of the kinds. `entity` says what the value depends on; each window in `over` has a column."""

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

    @abstractmethod
    def values(self, source: Source) -> list[Floats]:
        """One number or array (N,) per column, float64; the caller casts to float32."""

    def describe(self) -> dict[str, Any]:
        """JSON-ready: everything that the value depends on. The fingerprint is a hash of this."""
        return {"kind": self.kind} | {f.name: plain(getattr(self, f.name)) for f in fields(self)}


def plain(value: Any) -> Any:
    """A definition as JSON has it."""
    if isinstance(value, (Signal, Window, History, Total, HistoryQuery)):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return str(value) if isinstance(value, StrEnum) else value
