"""Write what the Spark job makes: examples by day, and sequences.

On folders that the executors reach by their paths, they write the files themselves (`direct_files`) and send back what
they counted; elsewhere (`hdfs:`, `s3a:`) Spark writes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.group_ops import PandasCogroupedOps
from pyspark.sql.pandas.types import from_arrow_schema

from recsys.contracts.types import ENGAGEMENT, EventType
from training.features.arrow_columns import TIME
from training.features.direct_files import ORDER, write_days, write_part
from training.features.kernel import EXAMPLE_SCHEMA
from training.features.output_folder import OutputFolder, local_path, output_folder
from training.features.sequences import SEQUENCE_SCHEMA
from training.features.trust import JUDGED_COLUMNS

DAY, SEQUENCES = "dt", "sequences"
RowsOf = Callable[[pa.Table, pa.Table], pa.Table]  # a group's bare examples and events → its examples
_COUNTED = ("sampled", "click", "conversion")
_COUNTS = pa.schema([(name, pa.int64()) for name in ("examples", *_COUNTED)])


def write_examples(
    spark: SparkSession, folder: OutputFolder, groups: PandasCogroupedOps, rows_of: RowsOf
) -> Mapping[str, int]:
    """Into the staging folder, by day; gives how many there are, and how many of each of `_COUNTED`.

    Args:
        rows_of: makes the rows of a group, in `EXAMPLE_SCHEMA`.
    """
    if (place := local_path(spark, folder.staging)) is not None:

        def written(bucket: tuple[pa.Scalar], examples: pa.Table, events: pa.Table) -> pa.Table:
            rows = rows_of(examples, events)
            write_days(place, rows, bucket[0].as_py())
            flags = {name: [pc.sum(rows.column(name)).as_py() or 0] for name in _COUNTED}
            return pa.table({"examples": [len(rows)], **flags}, schema=_COUNTS)

        counts = groups.applyInArrow(written, from_arrow_schema(_COUNTS)).toArrow()
        return {name: pc.sum(counts.column(name)).as_py() or 0 for name in _COUNTS.names}
    rows = groups.applyInArrow(rows_of, from_arrow_schema(EXAMPLE_SCHEMA)).withColumn(DAY, day_column())
    counted = Observation()
    flags = (sf.count_if(sf.col(name).cast("boolean")).alias(name) for name in _COUNTED)
    rows = rows.sortWithinPartitions(DAY, *ORDER).observe(counted, sf.count("*").alias("examples"), *flags)
    rows.write.partitionBy(DAY).option("compression", "zstd").parquet(folder.staging)
    return {name: counted.get[name] for name in _COUNTS.names}


def write_sequences(
    spark: SparkSession,
    output: str,
    events: DataFrame,
    rows_of: Callable[[pa.Table], pa.Table],
    impressions: bool = False,
    mark: str = "",
) -> int:
    """`rows_of`: makes the sequences of a group of events, in `SEQUENCE_SCHEMA`. `impressions`: it needs them, too.
    `mark`: what they are made of."""
    wanted = ENGAGEMENT | {EventType.IMPRESSION} if impressions else ENGAGEMENT
    needed = events.where(sf.col("type").isin([str(t) for t in wanted]))
    groups = needed.select("user_bucket", *JUDGED_COLUMNS).groupBy("user_bucket")
    with output_folder(spark, output) as folder:
        staging = f"{folder.staging}/{SEQUENCES}"
        if (place := local_path(spark, staging)) is not None:

            def written(bucket: tuple[pa.Scalar], rows: pa.Table) -> pa.Table:
                users = rows_of(rows)
                write_part(place, users, bucket[0].as_py())
                return pa.table({"users": [len(users)]})

            counts = groups.applyInArrow(written, "users long").toArrow()
            if not len(counts):  # nobody has engaged with anything
                write_part(place, SEQUENCE_SCHEMA.empty_table(), 0)
            count = pc.sum(counts.column("users")).as_py() or 0
        else:
            rows = groups.applyInArrow(rows_of, from_arrow_schema(SEQUENCE_SCHEMA))
            rows.write.option("compression", "zstd").parquet(staging)
            count = spark.read.parquet(staging).count()
        folder.publish({SEQUENCES: mark})
    return int(count)


def day_column() -> Any:
    return sf.date_format(sf.timestamp_millis(sf.col(TIME)), "yyyy-MM-dd")
