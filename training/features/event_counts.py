"""How many events of each kind a lake has, and what the labels take from that."""

from collections import Counter

from recsys.contracts.types import ENGAGEMENT, EventType
from recsys.features.definitions import STARRED


class EventCounts(Counter[tuple[str, str, bool]]):
    """Events by day, type, and whether they name no request."""

    @property
    def of_days(self) -> Counter[str]:
        found = Counter[str]()
        for (day, _, _), n in self.items():
            found[day] += n
        return found

    def until(self, last: str) -> "EventCounts":
        """Those of the days up to this one."""
        return EventCounts({key: n for key, n in self.items() if key[0] <= last})

    def by_type(self) -> tuple[Counter[EventType], Counter[EventType]]:
        """All events, and those that name a request."""
        events, named = Counter[EventType](), Counter[EventType]()
        for (_, kind, loose), n in self.items():
            events[EventType(kind)] += n
            named[EventType(kind)] += 0 if loose else n
        return events, named

    @property
    def has_impressions(self) -> bool:
        return any(kind == EventType.IMPRESSION for _, kind, _ in self)

    @property
    def unshown(self) -> frozenset[EventType]:
        """Types that are examples without an impression: ratings; in a log without impressions, every engagement but
        views."""
        return STARRED if self.has_impressions else STARRED | ENGAGEMENT - {EventType.VIEW}

    def choices(self, kinds: frozenset[EventType]) -> int:
        """Engagements of these kinds that name no request."""
        return sum(n for (_, kind, loose), n in self.items() if loose and kind in kinds & ENGAGEMENT)
