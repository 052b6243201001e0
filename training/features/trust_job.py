"""The Spark part of `training.features.trust`: tallies by bucket of users, verdicts in the driver."""

from collections.abc import Sequence

import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import from_arrow_schema

from recsys.contracts.merges import UserMerge
from recsys.trust.rules import RULES
from training.features.members import MergeColumns
from training.features.trust import (
    JUDGED_COLUMNS,
    OTHERS,
    TALLY_KEY,
    TALLY_SCHEMA,
    Judgement,
    Verdicts,
    tally,
    weights_of,
)


def judged(
    spark: SparkSession, events: DataFrame, merged: Sequence[UserMerge], newest: int
) -> tuple[Verdicts, Judgement]:
    """`newest`: as `weights_of`. Of the whole log, whose impressions of earlier days back the clicks of later ones."""
    every = spark.sparkContext.broadcast(MergeColumns(merged))
    by_user = events.select("user_bucket", *JUDGED_COLUMNS).groupBy("user_bucket")
    tallies = by_user.applyInArrow(
        lambda rows: tally(rows, every.value.of(rows)), from_arrow_schema(TALLY_SCHEMA)
    )
    sums = [sf.sum(name).alias(name) for name in TALLY_SCHEMA.names if name not in TALLY_KEY]
    summed = tallies.groupBy(*TALLY_KEY).agg(*sums).persist()
    # what is never suspect is a row or two per day, so that the driver need not hold the catalogue
    unbacked = sf.col("unbacked")
    doubtful = sf.when(unbacked > RULES.allowance, sf.col("item_id")).when(
        unbacked > sf.col("backed"), OTHERS
    )
    few = summed.withColumn("item_id", doubtful).groupBy(*TALLY_KEY).agg(*sums)
    verdicts = Verdicts.of(few.toArrow().cast(TALLY_SCHEMA))
    suspects = summed.where(sf.col("item_id").isin(pc.unique(verdicts.items.column("item_id")).to_pylist()))
    found = suspects.toArrow().cast(TALLY_SCHEMA) if verdicts.items.num_rows else TALLY_SCHEMA.empty_table()
    verdicts = verdicts.with_lists(found)
    weights = weights_of(found, verdicts, newest)
    summed.unpersist()
    return verdicts, Judgement(dict(verdicts.left_out), weights)
