"""State: integers in named cells, bounded histories, and how one event folds into them.

Every operation commutes with itself (add, minimum, maximum, keep-the-latest-n), so a state is a commutative
monoid: partial states merge in any order, late events give the same answer, and Spark may pre-aggregate.
Integers only: a float sum depends on its order.

An `Aggregate` is one thing that is stored; a feature (`recsys.features.spec`) is read from aggregates. Time is
cut into tiles of `hop_ms`; a tile's cell counts what happened in [tile · hop, (tile + 1) · hop), as in chronon.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from recsys.events import Event
from recsys.types import EventType


class Entity(StrEnum):
    """What a feature belongs to. Only users and items own state; the others read it."""

    USER = "user"
    ITEM = "item"
    USER_ITEM = "user_item"
    CONTEXT = "context"


class Op(StrEnum):
    """How a value enters its cell. A missing cell is 0 for ADD and absent for MIN and MAX."""

    ADD = "+"
    MIN = "<"
    MAX = ">"


class Measure(StrEnum):
    """What one event contributes."""

    ONE = "one"  # 1
    VALUE = "value"  # round(value): dwell milliseconds, cents
    TIME = "time"  # event_time_ms


class Delta(NamedTuple):
    """One change of one cell."""

    cell: str
    op: Op
    amount: int


TILE_MARK = "@"
CATEGORY_MARK = "#"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Cells of one entity that one kind of event changes.

    Cell names: `name`, `name@tile`, `name#category`, `name@tile#category`. `hop_ms` 0 means one cell for all
    time; otherwise tiles, of which those within `retention_ms` are kept.
    """

    name: str
    entity: Entity
    types: frozenset[EventType]
    measure: Measure = Measure.ONE
    op: Op = Op.ADD
    hop_ms: int = 0
    retention_ms: int = 0
    by_category: bool = False
    min_value: float | None = None  # count only events with at least this value, such as four stars

    def accepts(self, event: Event) -> bool:
        if event.type not in self.types:
            return False
        if self.measure is Measure.VALUE and event.value is None:
            return False
        return self.min_value is None or (event.value is not None and event.value >= self.min_value)

    def fold(self, event: Event) -> Iterator[Delta]:
        """The changes that an accepted event makes."""
        stem = f"{self.name}{TILE_MARK}{event.event_time_ms // self.hop_ms}" if self.hop_ms else self.name
        amount = self._amount(event)
        if not self.by_category:
            yield Delta(stem, self.op, amount)
            return
        for category in event.categories:
            yield Delta(f"{stem}{CATEGORY_MARK}{category}", self.op, amount)

    def _amount(self, event: Event) -> int:
        if self.measure is Measure.ONE:
            return 1
        if self.measure is Measure.TIME:
            return event.event_time_ms
        return round(event.value or 0.0)


class Visit(NamedTuple):
    """One entry of a history, ordered by (event_time_ms, event_id)."""

    event_time_ms: int
    event_id: str
    type: EventType
    item_id: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The latest `size` accepted events of a user, by (event time, event id)."""

    name: str
    types: frozenset[EventType]
    size: int


@dataclass(slots=True)
class EntityState:
    """What is known of one user or item: cells, and for users the histories (oldest first) by name."""

    cells: dict[str, int] = field(default_factory=dict)
    histories: dict[str, list[Visit]] = field(default_factory=dict)

    def change(self, delta: Delta) -> None:
        """Apply one delta in place."""
        old = self.cells.get(delta.cell)
        if old is None:
            self.cells[delta.cell] = delta.amount
        elif delta.op is Op.ADD:
            self.cells[delta.cell] = old + delta.amount
        elif delta.op is Op.MAX:
            self.cells[delta.cell] = max(old, delta.amount)
        else:
            self.cells[delta.cell] = min(old, delta.amount)

    def visit(self, history: History, visit: Visit) -> None:
        """Add one visit in place, keeping order and the bound. Adding one that is there changes nothing."""
        visits = self.histories.setdefault(history.name, [])
        if visit not in visits:
            visits.append(visit)
            visits.sort()
            del visits[: -history.size]
