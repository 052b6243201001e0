"""Repeat consumption: seen items that may be recommended once more.

People come back to songs and groceries, and hardly ever to a film they rated. So each type of event says whether, and
after how long, an item that the user had it with may return; a log can teach it (`training.two_tower.repeats`). An item
that may not return stays hidden.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from recsys.contracts.request import Query, Rows
from recsys.contracts.state import Visit
from recsys.contracts.types import MS_PER_DAY, EventType

# Which of an item's events decides: one of a higher rank replaces a lower one, one of the same rank an earlier one. So
# an item in the cart is no longer a mere click, and an order takes it out of the cart.
RANKS: Mapping[EventType, int] = {
    EventType.VIEW: 0,
    EventType.CLICK: 1,
    EventType.LIKE: 2,
    EventType.RATING: 2,
    EventType.ADD_TO_CART: 3,
    EventType.PURCHASE: 3,
}


class Seen(NamedTuple):
    """A user's seen items."""

    hidden: list[Visit]  # of items that may not return
    returning: Sequence[str]  # ids of the others, most recently visited first


@dataclass(frozen=True)
class RepeatPolicy:
    """`days`: event type → days since the user's latest visit after which the item may return; 0: at once. After other
    events, never."""

    days: Mapping[EventType, float] = field(default_factory=dict)

    def split(self, seen: list[Visit], now_ms: int) -> Seen:
        """`seen`: visits, oldest first."""
        if not self.days:
            return Seen(seen, ())
        returning = dict.fromkeys(self._returning(seen, now_ms))
        return Seen([visit for visit in seen if visit.item_id not in returning], list(returning))

    def _returning(self, seen: Iterable[Visit], now_ms: int) -> Iterable[str]:
        decides: dict[str, EventType] = {}
        latest: dict[str, int] = {}
        for visit in seen:
            latest.pop(visit.item_id, None)  # so that the dict is ordered by the latest visit
            latest[visit.item_id] = visit.event_time_ms
            decides[visit.item_id] = stronger(decides.get(visit.item_id), visit.type)
        for item_id, at_ms in reversed(latest.items()):
            days = self.days.get(decides[item_id])
            if days is not None and max(now_ms - at_ms, 0) >= days * MS_PER_DAY:  # clocks differ
                yield item_id


def stronger(before: EventType | None, now: EventType) -> EventType:
    """Which of an item's events decides, of two in this order."""
    return now if before is None or RANKS[now] >= RANKS[before] else before


# Share of all choices, from which on a log is one of returns: below, hiding what was seen costs less than the places in
# the lists that it would take.
LEAST_RETURNING = 0.05
EVERYTHING = RepeatPolicy(dict.fromkeys(RANKS, 0.0))  # for requests with `allow_seen`


@dataclass(frozen=True)
class RepeatConsumptionSource:
    """`recsys.pipeline.stages.Source`: the items that `HistoryHydrator` found to return."""

    limit: int = 20
    name: str = "repeat_consumption"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        rows: Rows = query.repeat_rows[query.may_show(query.repeat_rows)][: self.limit]
        return rows
