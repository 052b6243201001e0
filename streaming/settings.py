"""Settings of the feature worker, the archiver and the replay, on top of the shared ones."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from recsys.settings import Settings


class Engine(StrEnum):
    """What applies the log to the store."""

    WORKER = "worker"  # `streaming.worker`
    SPARK = "spark"  # `streaming.spark`, in Spark's micro-batches


class RelayOrder(StrEnum):
    """How a relay reads the catalogue database's outbox."""

    OUTBOX = "outbox"  # by the numbers of its rows
    SLOT = "slot"  # by their commits, `recsys.catalogue_db.slot_outbox`


class StreamSettings(Settings):
    archive_max_rows: int = Field(50_000, ge=1, description="Records after which the archiver writes files.")
    archive_max_seconds: float = Field(
        10.0, gt=0, description="The archiver writes files when its oldest pending record is this old."
    )
    worker_batch: int = Field(
        500,
        ge=1,
        le=1_000,
        description="Events per Redis call, which blocks Redis for its duration, while a worker is behind, and always"
        " of the Spark engine; otherwise 100, if that is less. A call ends with the list that reaches the number.",
    )
    max_users: int = Field(
        20_000_000,
        ge=1,
        description="Users with state in Redis; beyond it, those go whose state would expire first.",
    )
    max_items: int = Field(
        2_000_000,
        ge=1,
        description="The same for items, each in as many shares as the store has parts, at most.",
    )
    relay_batch: int = Field(
        2_000,
        ge=1,
        le=10_000,
        description="Rows of the catalogue database's outbox that a relay delivers at once.",
    )
    relay: RelayOrder = Field(
        RelayOrder.OUTBOX,
        description="How a relay reads the outbox: outbox, by the numbers of its rows; or slot, in the order of the"
        " commits, through a logical replication slot of PostgreSQL (docs/database.md).",
    )
    worker_metrics_port: int = Field(
        0, ge=0, le=65_535, description="Port of metrics and health of a worker or relay; 0: none."
    )
    spark_jars: Path | None = Field(
        None,
        description="Folder with the jars of Spark's Kafka connector, for `recsys stream worker --engine spark`; empty:"
        " from Maven Central, once.",
    )
