"""Load the lake's state into an empty store: the Spark side of `recsys.store.backfill`."""

from collections.abc import Callable, Iterator, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from recsys.contracts.events import MAX_TIME_MS
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.store.backfill import Covered, Loaded, StateRow, backfill
from recsys.store.base import FeatureStore, StateDefinition
from training.features.arrow_columns import TIME
from training.features.job import FeatureJob, read_events
from training.features.state_job import entity_state, state


def main(
    spark: SparkSession,
    job: FeatureJob,
    covered: Sequence[Covered],
    open_store: Callable[[StateDefinition], FeatureStore],
    partitions: int,
    dedupe_ms: int,
) -> Loaded:
    """Load the lake, which must hold exactly what `covered` says: no archiver may write meanwhile."""
    watermark_ms = min((c.watermark_ms for c in covered if c.watermark_ms), default=0)
    recent = _recent(read_events(spark, job), dedupe_ms, watermark_ms)
    states = _rows(state(spark, job, MAX_TIME_MS))
    return backfill(FEATURES, open_store, partitions, states, recent, covered)


def _rows(states: DataFrame) -> Iterator[StateRow]:
    for row in states.toLocalIterator(prefetchPartitions=True):
        yield StateRow(
            Entity(row["entity"]), row["id"], entity_state(row.asDict(recursive=True)), row["latest_ms"]
        )


def _recent(events: DataFrame, dedupe_ms: int, watermark_ms: int) -> Iterator[tuple[str, str, int]]:
    """(event id, user id, event time) within the dedupe window of the partition furthest behind.

    `watermark_ms`: that partition's; 0 if the lake does not know it: then the newest event's time is used.
    """
    since = (watermark_ms or events.agg(sf.max(TIME)).collect()[0][0] or 0) - dedupe_ms
    recent = events.where(sf.col(TIME) >= since).select("event_id", "user_id", TIME)
    for row in recent.toLocalIterator(prefetchPartitions=True):
        yield row[0], row[1], row[2]
