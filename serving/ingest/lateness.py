"""Events that the feature worker will certainly call late: refused at once, by its own rule."""

from dataclasses import dataclass

from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_HOUR, Topic
from recsys.store.base import FeatureStore


@dataclass(frozen=True)
class Lateness:
    """A partition's watermark in the store only grows, so what is late by it stays late. What is not, or cannot be
    known while the store is away, is for the worker to judge."""

    store: FeatureStore
    rules: TimeRules
    partitions: int

    def check(self, event: Event, now_ms: int, watermarks: dict[int, int]) -> None:
        """`watermarks`: those read so far for one request, by partition; few events are so old that one is needed.
        Raises `InvalidEvent`: the worker would call the event late."""
        if not self.rules.is_late(event.event_time_ms, now_ms):
            return
        partition = partition_of(event.user_id, self.partitions)
        if partition not in watermarks:
            watermarks[partition] = self._watermark_ms(partition)
        if self.rules.is_late(event.event_time_ms, watermarks[partition]):
            behind, most = watermarks[partition] - event.event_time_ms, self.rules.late_ms
            raise InvalidEvent(
                f"too old: event_time_ms is {behind / MS_PER_HOUR:,.1f} h behind events that have been counted, "
                f"{most / MS_PER_HOUR:,.1f} h are allowed; import older events with `recsys data import`"
            )

    def _watermark_ms(self, partition: int) -> int:
        try:
            checkpoint = self.store.checkpoint(Topic.EVENTS, partition)
        except Unavailable:
            return 0
        return checkpoint.watermark_ms if checkpoint else 0
