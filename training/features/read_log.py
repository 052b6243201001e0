"""What the Spark job reads of a lake: events with their buckets, their counts, merges, attributes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from recsys.contracts.merges import Merges, UserMerge
from recsys.lake.lake import EVENT_SCHEMA, EVENTS
from recsys.lake.merges import MERGE_SCHEMA, MERGES, merges_of, remembered
from training.features.arrow_columns import TIME
from training.features.event_counts import EventCounts
from training.features.feature_job import FeatureJob
from training.features.kernel import REQUEST_TEXTS
from training.features.labels import EVENT_COLUMNS, ITEM_CONTEXT
from training.features.members import NO_MERGES
from training.features.write import DAY

_BUCKETS, _BUCKET_ROWS = 64, 500_000


def read_events(spark: SparkSession, job: FeatureJob, merges: Merges = NO_MERGES) -> DataFrame:
    """Flat events with their buckets and the context that features read. Merged users are in one bucket."""
    context = {name: name for name in ITEM_CONTEXT}
    context |= {column: name for (_, name), column in REQUEST_TEXTS.items()}
    events = job.tables.read(spark, EVENTS, from_arrow_schema(EVENT_SCHEMA).add(DAY, "string"))
    if job.forgotten:
        marks = spark.createDataFrame(list(job.forgotten.items()), "digest string, until_ms long")
        theirs = (sf.sha2("user_id", 256) == marks.digest) & (sf.col(TIME) <= marks.until_ms)
        events = events.join(sf.broadcast(marks), theirs, "left_anti")
    events = events.select(
        *EVENT_COLUMNS,
        *(sf.col("context")[name].alias(column) for column, name in context.items()),
        DAY,
        bucket("item_id", job.buckets or _BUCKETS).alias("item_bucket"),
    )
    return with_user_bucket(spark, events, merges, job.buckets or _BUCKETS)


def with_user_bucket(spark: SparkSession, rows: DataFrame, merges: Merges, buckets: int) -> DataFrame:
    if not merges.ids:
        return rows.withColumn("user_bucket", bucket("user_id", buckets))
    pairs = [(user_id, merges.home_of(user_id)) for user_id in merges.ids]
    homes = spark.createDataFrame(pairs, "user_id string, home string")
    rows = rows.join(sf.broadcast(homes), "user_id", "left")
    rows = rows.withColumn("home", sf.coalesce("home", "user_id"))
    return rows.withColumn("user_bucket", bucket("home", buckets)).drop("home")


def read_merges(spark: SparkSession, job: FeatureJob) -> list[UserMerge]:
    rows = job.tables.read(spark, MERGES, from_arrow_schema(MERGE_SCHEMA))
    return remembered(merges_of(rows.toArrow()), job.forgotten)


def bucket(column: str, buckets: int) -> Any:
    return sf.pmod(sf.xxhash64(sf.col(column)), sf.lit(buckets)).cast("int")


def joined(
    spark: SparkSession,
    rows: DataFrame,
    job: FeatureJob,
    name: str,
    key: str,
    texts: dict[Any, str],
    more: str = "",
) -> DataFrame:
    """Add the attributes of items or users that features read; null where unknown. `more`: further columns, in DDL."""
    schema = StructType.fromDDL(f"{key} string, attributes map<string,string> {more}")
    picked = (sf.col("attributes")[attribute].alias(column) for (_, attribute), column in texts.items())
    table = job.tables.read(spark, name, schema)
    return rows.join(table.select(key, *table.columns[2:], *picked), key, "left")


@dataclass(frozen=True)
class LogContent:
    """`of_days`: of each day with events a text that is another one if any of its events is; their order does not
    matter."""

    counts: EventCounts
    of_days: Mapping[str, str]


def read_content(spark: SparkSession, job: FeatureJob) -> LogContent:
    """One pass over the log."""
    events, loose = read_events(spark, job), sf.col("request_id").isNull().alias("loose")
    read = events.drop("item_bucket", "user_bucket").columns
    # 31 bits of each event, so that the sum of four billion fits
    content = sf.sum(sf.pmod(sf.xxhash64(*read), sf.lit(2**31)))
    found = (
        events.groupBy(DAY, "type", loose).agg(sf.count("*").alias("n"), content.alias("content")).collect()
    )
    sums = Counter[str]()
    for row in found:
        sums[row[DAY]] += row["content"]
    counts = EventCounts({(row[DAY], row["type"], row["loose"]): row["n"] for row in found})
    return LogContent(counts, {day: f"{n}-{sums[day]:x}" for day, n in counts.of_days.items()})


def buckets_for(rows: int) -> int:
    """Few for a small log, since each costs a call of the kernels; else at most half a million rows each."""
    return max(2, min(_BUCKETS, rows // 50_000), -(-rows // _BUCKET_ROWS))
