"""Settings of the streaming processes, on top of the shared ones."""

from pydantic import Field

from recsys.settings import Settings


class StreamSettings(Settings):
    """What the feature worker, the archiver and the replay read from the environment."""

    archive_max_rows: int = Field(
        50_000, ge=1, description="The archiver writes files after so many records,"
    )
    archive_max_seconds: float = Field(
        10.0, gt=0, description="or when the oldest waiting record is this old."
    )
    session_timeout_ms: int = Field(
        6_000, ge=1_000, description="Kafka gives a dead worker's partitions to others after this time."
    )
