"""Settings of the feature worker, the archiver and the replay, on top of the shared ones."""

from pydantic import Field

from recsys.contracts.types import MS_PER_HOUR, MS_PER_MINUTE
from recsys.settings import Settings
from streaming.time_rules import TimeRules


class StreamSettings(Settings):
    archive_max_rows: int = Field(50_000, ge=1, description="Records after which the archiver writes files.")
    archive_max_seconds: float = Field(
        10.0, gt=0, description="The archiver writes files when its oldest pending record is this old."
    )
    late_hours: float = Field(
        24.0, gt=0, description="Event time for which ids are remembered; older events are dead letters."
    )
    future_minutes: float = Field(
        5.0, ge=0, description="Event times further ahead of the log's clock are set to the log's time."
    )
    worker_batch: int = Field(
        100, ge=1, le=1_000, description="Events per Redis call, which blocks Redis for its duration."
    )
    worker_metrics_port: int = Field(0, ge=0, le=65_535, description="Port of the worker's metrics; 0: none.")

    @property
    def time_rules(self) -> TimeRules:
        """The rules for event times, the same for worker and archiver."""
        return TimeRules(int(self.future_minutes * MS_PER_MINUTE), int(self.late_hours * MS_PER_HOUR))
