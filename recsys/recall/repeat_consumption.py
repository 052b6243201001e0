"""Repeat consumption: the few seen items that may be recommended once more.

An item in the cart that was not bought since is waiting to be bought; a consumable may be bought again after some time.
Every other seen item stays hidden. By default nothing returns.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from recsys.contracts.request import Query, Rows
from recsys.contracts.state import Visit
from recsys.contracts.types import EventType


@dataclass(frozen=True)
class RepeatConsumption:
    """Which seen items may return.

    carts: those in the cart. after_ms: those bought, and not visited for at least this long since; 0: never.
    """

    carts: bool = False
    after_ms: int = 0

    def items(self, seen: Iterable[Visit], now_ms: int) -> list[str]:
        """Ids of the items, most recently visited first. `seen`: oldest first."""
        if not (self.carts or self.after_ms):
            return []
        cart: set[str] = set()
        bought: set[str] = set()
        latest: dict[str, int] = {}
        for visit in seen:
            latest.pop(visit.item_id, None)  # so that the dict is ordered by the latest visit
            latest[visit.item_id] = visit.event_time_ms
            if visit.type is EventType.ADD_TO_CART:
                cart.add(visit.item_id)
            elif visit.type is EventType.PURCHASE:
                bought.add(visit.item_id)
                cart.discard(visit.item_id)
        return [
            item_id
            for item_id, at in reversed(latest.items())
            if (self.carts and item_id in cart)
            or (self.after_ms and item_id in bought and now_ms - at >= self.after_ms)
        ]


@dataclass(frozen=True)
class RepeatConsumptionSource:
    """`recsys.pipeline.stages.Source`: the items that `HistoryHydrator` found by `RepeatConsumption`."""

    limit: int = 20
    name: str = "repeat_consumption"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        rows: Rows = query.repeat_rows[query.may_show(query.repeat_rows)][: self.limit]
        return rows
