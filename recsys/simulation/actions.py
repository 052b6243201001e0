"""What a visitor does with a list, as a client would report it: events in their order, with the time between."""

from dataclasses import dataclass

from recsys.contracts.types import EventType, Item
from recsys.simulation.behavior import Response
from recsys.simulation.world import Ints, World

_SCAN_MS = 800  # to look at one item without a click


@dataclass(frozen=True, slots=True)
class Action:
    """One event to be. `value` as of `EventType`; `after_ms`: since the list was shown."""

    type: EventType
    row: int
    position: int
    after_ms: int
    value: float | None = None


def actions(world: World, rows: Ints, response: Response) -> list[Action]:
    """The events of one list, from the top: click, dwell when the reading ends, then what follows from it."""
    found: list[Action] = []
    clock = 0
    for position, row in enumerate(rows.tolist()):
        clock += _SCAN_MS if response.examined[position] else 0
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
    """The world's row of a catalogue entry; -1 for an item that is not of this world."""
    number = item_id[1:]
    return int(number) if item_id[:1] == "i" and number.isascii() and number.isdigit() else -1


def changes(world: World, since_ms: int, until_ms: int) -> tuple[list[Item], list[str]]:
    """What a shop tells its recommender about (since, until]: items that came, ids of those that went."""
    came = (world.born_ms > since_ms) & (world.born_ms <= until_ms) & (world.dies_ms > until_ms)
    went = (world.dies_ms > since_ms) & (world.dies_ms <= until_ms)
    return [world.item(row) for row in came.nonzero()[0].tolist()], [
        f"i{row}" for row in went.nonzero()[0].tolist()
    ]
