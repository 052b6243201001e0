"""The one rule for times that others report, of events and of changes of items and users: the log's clock bounds them.

Without it, what was stamped in the future could not be corrected before that time. When an item comes out
(`Item.created_ms`) is no such time: it may be announced (`recsys.pipeline.filters.UpcomingFilter`).
"""

from dataclasses import dataclass

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class TimeRules:
    """`future_ms`: how far a client's clock may be ahead of the log's; `late_ms`: how old an event may be."""

    future_ms: int = 5 * MS_PER_MINUTE
    late_ms: int = MS_PER_DAY

    def __post_init__(self) -> None:
        if self.future_ms < 0 or self.late_ms <= 0:
            raise InvalidConfig("future_ms must be at least 0 and late_ms positive")

    def clamped(self, event_time_ms: int, append_time_ms: int) -> int:
        """Return the append time for an event from the future, else the event time."""
        return clamped(event_time_ms, append_time_ms, self.future_ms)

    def is_late(self, event_time_ms: int, watermark_ms: int) -> bool:
        """True for an event whose id may have expired: it could have been counted before.
        `watermark_ms`: the latest event time before it in its partition."""
        return event_time_ms < watermark_ms - self.late_ms


def clamped(time_ms: int, append_time_ms: int, ahead_ms: int = 0) -> int:
    """The append time for a time more than `ahead_ms` after it, else the time. Append time 0: unknown."""
    return append_time_ms if append_time_ms and time_ms > append_time_ms + ahead_ms else time_ms
