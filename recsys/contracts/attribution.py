"""Which impression an outcome belongs to.

One that names its request belongs to that request's impression of the item. One that names none may have come from a
search, a link or a bookmark: given to the latest impression of the item, it makes a label of what the list did not
bring about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType

_MOST_HOURS = 24 * 365
_MOSTLY = 0.5  # of a type's events that name a request


class Unnamed(StrEnum):
    """What becomes of outcomes that name no request."""

    AUTO = "auto"  # WINDOW, but REQUEST for the types of event that mostly name one
    REQUEST = "request"  # they belong to no impression
    WINDOW = "window"  # they belong to the latest impression of the item to the user


@dataclass(frozen=True)
class Attribution:
    """`window_ms`: an outcome comes at most this long after its impression."""

    unnamed: Unnamed = Unnamed.AUTO
    window_ms: int = MS_PER_DAY

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `auto`, `request` or `window:H`, H hours.

        >>> Attribution.parse("window:48").window_ms
        172800000

        Raises:
            ValueError: another text.
        """
        if text in (Unnamed.AUTO, Unnamed.REQUEST):
            return cls(Unnamed(text))
        name, _, hours = text.partition(":")
        if name == Unnamed.WINDOW and hours.isdecimal() and 0 < int(hours) <= _MOST_HOURS:
            return cls(Unnamed.WINDOW, int(hours) * MS_PER_HOUR)
        raise ValueError(f"{text!r} is none of auto, request, window:H with H from 1 to {_MOST_HOURS} hours")

    def only_named(
        self, events: Mapping[EventType, int], named: Mapping[EventType, int]
    ) -> frozenset[EventType]:
        """The types of event that belong to an impression only by the request that they name.

        Args:
            events: events of the log, by type.
            named: those of them that name a request.
        """
        if self.unnamed is Unnamed.AUTO:
            return frozenset(t for t, count in events.items() if named.get(t, 0) >= _MOSTLY * count > 0)
        return frozenset(EventType) if self.unnamed is Unnamed.REQUEST else frozenset()
