"""A simulated user's actions on a list, as a client would report them, and the changes of the catalogue."""

from dataclasses import dataclass

from recsys.contracts.types import EventType, Item
from recsys.simulation.behavior import Response
from recsys.simulation.world import Ints, World

SCAN_MS = 800  # to examine one item without a click


@dataclass(frozen=True, slots=True)
class Action:
    """One event. `value` is the event's; `after_ms` counts from the time when the list was shown."""

    type: EventType
    row: int
    position: int
    after_ms: int
    value: float | None = None


def actions(world: World, rows: Ints, response: Response) -> list[Action]:
    """The events of one list from top to bottom: click, dwell at the end of reading, then like, cart and purchase."""
    found: list[Action] = []
    clock = 0
    for position, row in enumerate(rows.tolist()):
        clock += SCAN_MS if response.examined[position] else 0
        if not response.clicked[position]:
            continue
        found.append(Action(EventType.CLICK, row, position, clock))
        dwell = int(response.dwell_ms[position])
        clock += dwell
        found.append(Action(EventType.DWELL, row, position, clock, float(dwell)))
        price = float(world.price[row])
        for happened, kind, value in (
            (response.liked, EventType.LIKE, None),
            (response.added, EventType.ADD_TO_CART, price),
            (response.purchased, EventType.PURCHASE, price),
        ):
            if happened[position]:
                clock += 1
                found.append(Action(kind, row, position, clock, value))
    return found


def row_of(item_id: str) -> int:
    """The item's row in the world; -1 for an item of another catalogue."""
    number = item_id[1:]
    return int(number) if item_id[:1] == "i" and number.isascii() and number.isdigit() else -1


def changes(world: World, since_ms: int, until_ms: int) -> tuple[list[Item], list[str]]:
    """Catalogue changes in (since, until]: new items, and ids of expired items."""
    new = (world.born_ms > since_ms) & (world.born_ms <= until_ms) & (world.dies_ms > until_ms)
    expired = (world.dies_ms > since_ms) & (world.dies_ms <= until_ms)
    items = [world.item(row) for row in new.nonzero()[0].tolist()]
    return items, [f"i{row}" for row in expired.nonzero()[0].tolist()]
