"""Continue and repeat: the few seen items that may come back, where the data has carts and purchases.

What was put into the cart and not bought since is to be continued. What was bought longer ago than it lasts may be
bought again. Everything else that was seen stays hidden; by default nothing comes back.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from recsys.contracts.request import Query, Rows
from recsys.contracts.types import EventType
from recsys.features.state import Visit


@dataclass(frozen=True)
class Again:
    """Which seen items may be recommended again.

    carts: those in the cart. repeat_after_ms: those bought at least so long ago, and not met since; 0: never.
    """

    carts: bool = False
    repeat_after_ms: int = 0

    def items(self, seen: Iterable[Visit], now_ms: int) -> list[str]:
        """Ids of the items, that of the newest visit first. `seen`: oldest first."""
        if not (self.carts or self.repeat_after_ms):
            return []
        cart: set[str] = set()
        bought: set[str] = set()
        latest: dict[str, int] = {}
        for visit in seen:
            latest.pop(visit.item_id, None)  # the newest visits are at the end
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
            or (self.repeat_after_ms and item_id in bought and now_ms - at >= self.repeat_after_ms)
        ]


class AgainSource:
    """`recsys.pipeline.stages.Source`: what the history hydrator found by `Again`."""

    def __init__(self, limit: int = 20, name: str = "again", optional: bool = True) -> None:
        self.name = name
        self.optional = optional
        self._limit = limit

    def recall(self, query: Query) -> Rows:
        rows: Rows = query.again_rows[query.may_show(query.again_rows)][: self._limit]
        return rows
