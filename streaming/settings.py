"""Settings of the streaming processes, on top of the shared ones."""

from pydantic import Field

from recsys.contracts.types import MS_PER_HOUR, MS_PER_MINUTE
from recsys.settings import Settings
from streaming.time_rules import TimeRules


class StreamSettings(Settings):
    """What the feature worker, the archiver and the replay read from the environment."""

    archive_max_rows: int = Field(
        50_000, ge=1, description="The archiver writes files after so many records,"
    )
    archive_max_seconds: float = Field(
        10.0, gt=0, description="or when the oldest waiting record is this old."
    )
    late_hours: float = Field(
        24.0,
        gt=0,
        description="Event ids are remembered this long in event time; older events become dead letters.",
    )
    future_minutes: float = Field(
        5.0, ge=0, description="An event time further ahead of the log's clock becomes the log's time."
    )
    worker_batch: int = Field(
        100, ge=1, le=1_000, description="Events in one call of Redis, which it blocks for their time."
    )
    worker_metrics_port: int = Field(
        0, ge=0, le=65_535, description="Port of the worker's /metrics; 0: none."
    )

    @property
    def time_rules(self) -> TimeRules:
        """What the worker and the archiver do with event times."""
        return TimeRules(int(self.future_minutes * MS_PER_MINUTE), int(self.late_hours * MS_PER_HOUR))
