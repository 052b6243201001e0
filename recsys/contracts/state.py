"""What is known of a user or an item: integers in named cells, and bounded histories.

Every operation commutes with itself (add, minimum, maximum, keep the latest n), so a state is a commutative monoid:
partial states merge in any order, late events give the same answer, and Spark may pre-aggregate. Integers only, because
a float sum depends on its order. Which events enter which cell is up to `recsys.features`.

Sums saturate instead of overflowing. Amounts to add are never negative, so a sum at its limit stays there in whichever
order it got there: saturating addition is associative, and commutes.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from recsys.contracts.types import EventType


class Op(StrEnum):
    """How a value enters its cell. A missing cell is 0 for ADD and absent for MIN and MAX."""

    ADD = "+"
    MIN = "<"
    MAX = ">"


# Limits of a sum, and of what one event adds to it. Lua and float64 have every integer up to the first; 2^31 amounts of
# the second fit an int64.
MAX_SUM = (1 << 53) - 1
MAX_AMOUNT = (1 << 32) - 1


def merged(op: Op, old: int, amount: int) -> int:
    """A cell after a change, or the cell of two partial states.

    >>> merged(Op.ADD, 2, 3), merged(Op.ADD, MAX_SUM, 3) == MAX_SUM, merged(Op.MAX, 2, 3)
    (5, True, 3)
    """
    if op is Op.ADD:
        return min(old + amount, MAX_SUM)
    return max(old, amount) if op is Op.MAX else min(old, amount)


class Delta(NamedTuple):
    """One change of one cell; an `amount` to add is in 0 … `MAX_SUM`."""

    cell: str
    op: Op
    amount: int


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
    """What is known of one user or item: cells, and for users the histories (oldest first) by name.

    `attributes`: a user's static attributes as last put through the log; None: never, so the lake's are the latest.
    """

    cells: MutableMapping[str, int] = field(default_factory=dict)
    histories: dict[str, list[Visit]] = field(default_factory=dict)
    attributes: Mapping[str, str] | None = None

    def change(self, delta: Delta) -> None:
        """Apply one delta in place."""
        old = self.cells.get(delta.cell)
        self.cells[delta.cell] = delta.amount if old is None else merged(delta.op, old, delta.amount)

    def visit(self, history: History, visit: Visit) -> None:
        """Add one visit in place, keeping order and the bound. Adding one that is there changes nothing."""
        visits = self.histories.setdefault(history.name, [])
        if visit not in visits:
            visits.append(visit)
            visits.sort()
            del visits[: -history.size]
