"""The Spark job: labelled examples with the features recomputed at their instant (ADR 11), day by day.

Three passes, each over a bucket of keys at a time (`applyInArrow`), so that each core holds one bucket in memory:
1. by user: label the impressions (`labels.label`);
2. by item: the item's features of each example, from the item's events (`kernel.item_side`);
3. by user: the user's features, those of both, and the history before the example (`kernel.user_side`).
The last pass makes the long rows, so no shuffle carries them. Days are staged and moved into place.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.group_ops import PandasCogroupedOps
from pyspark.sql.pandas.types import from_arrow_schema

from recsys.contracts.errors import InvalidData
from recsys.contracts.events import EVENT_KEY
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY
from recsys.features.definitions import FEATURES
from recsys.features.describe import DEFINITIONS
from recsys.lake.lake import DAY_PREFIX, newest_days, start_of
from training.features.arrow_columns import TIME
from training.features.event_counts import EventCounts
from training.features.feature_job import FeatureJob, Report
from training.features.kernel import (
    BARE_SCHEMA,
    ITEM_TEXTS,
    REQUEST_TEXTS,
    USER_TEXTS,
    item_side,
    user_side,
)
from training.features.labels import ITEM_CONTEXT, LabelConfig, label
from training.features.lake_tables import lake_tables
from training.features.marks import Labelling, day_mark, digest, label_days, log_mark
from training.features.members import MergeColumns
from training.features.negatives import Popularity
from training.features.output_folder import OutputFolder, output_folder
from training.features.read_log import (
    LogContent,
    bucket,
    buckets_for,
    joined,
    read_content,
    read_events,
    read_merges,
    with_user_bucket,
)
from training.features.sequences import sequences
from training.features.trust import TRUST, Judgement, Verdicts, trusted, trusted_examples
from training.features.trust_job import judged
from training.features.write import DAY, SEQUENCES, day_column, write_examples, write_sequences

_POPULARITY_ROWS = 1_000_000


def build(spark: SparkSession, job: FeatureJob, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Build the missing and outdated days, and the sequences, which always cover the whole lake. A log that has not
    changed since is not judged again.

    Raises:
        InvalidData: the lake has no events in those days.
    """
    tables = lake_tables(spark, job.lake)
    job = replace(job, snapshot=tables, forgotten={**job.forgotten, **tables.forgotten(spark)})
    lake_days = tables.days(spark)
    wanted = [d for d in lake_days if (job.first_day or d) <= d <= (job.last_day or d)]
    content = read_content(spark, job) if wanted else LogContent(EventCounts(), {})
    rows = content.counts.of_days
    if not any(rows.get(day) for day in wanted):
        raise InvalidData(
            f"{job.lake}: no events from {job.first_day or 'the start'} to {job.last_day or 'the end'}"
        )
    wanted = newest_days({day: rows[day] for day in wanted}, job.newest) if job.newest else wanted
    job = replace(job, buckets=job.buckets or buckets_for(sum(rows.values())))
    merged = read_merges(spark, job)
    log = _Log(job, content, merged, read_events(spark, job, Merges(merged)))
    with output_folder(spark, f"{job.output}/examples") as examples:
        # a day that the lake no longer has: all its users were forgotten
        gone = {name for name in examples.marks() if name.removeprefix(DAY_PREFIX) not in lake_days}
        examples.remove(gone)
        sequences_mark = output_folder(spark, job.output).marks().get(SEQUENCES)
        judgement = _read_judgement(examples)
        if judgement.log == sequences_mark == log.mark and not _outdated(log, wanted, examples, judgement):
            return Report(skipped=tuple(wanted), left_out=judgement.left_out)
        verdicts, judgement = log.judged(spark)
        marks = _outdated(log, wanted, examples, judgement)
        report = Report(
            days=tuple(marks),
            skipped=tuple(day for day in wanted if day not in marks),
            left_out=judgement.left_out,
        )
        if marks:
            report = _build_days(spark, log, examples, marks, verdicts, report, progress)
        examples.write(TRUST, msgspec.json.encode(judgement).decode())
        known = spark.sparkContext.broadcast(verdicts)
        every = spark.sparkContext.broadcast(MergeColumns(merged))

        def theirs(rows: pa.Table) -> pa.Table:
            merges = every.value.of(rows)
            return sequences(trusted(rows, known.value, merges) if known.value else rows, merges)

        n_sequences = write_sequences(spark, job.output, log.events, theirs, bool(verdicts), log.mark)
    return replace(report, sequences=n_sequences)


@dataclass(frozen=True)
class _Log:
    """What a run reads: all events of the lake, and what is known of them."""

    job: FeatureJob
    content: LogContent
    merged: Sequence[UserMerge]
    events: DataFrame

    @property
    def counts(self) -> EventCounts:
        return self.content.counts

    @property
    def labelling(self) -> Labelling:
        job, only_named = self.job, self.job.attribution.only_named(*self.counts.by_type())
        return Labelling(job.attribution, only_named, self.counts.unshown, job.negatives, job.seed)

    @property
    def is_judged(self) -> bool:
        return self.job.trust and self.counts.has_impressions

    @property
    def mark(self) -> str:
        return log_mark(self.content.of_days, self.merged, self.job.forgotten, self.is_judged)

    def judged(self, spark: SparkSession) -> tuple[Verdicts, Judgement]:
        """Reads the whole log."""
        if not self.is_judged:
            return Verdicts(), Judgement(log=self.mark)
        days = self.counts.of_days
        verdicts, judgement = judged(spark, self.events, self.merged, start_of(max(days)) // MS_PER_DAY)
        named = {day: verdicts.of_examples(start_of(day) // MS_PER_DAY) for day in days}
        suspects = {day: digest(found) for day, found in named.items() if found}
        return verdicts, msgspec.structs.replace(judgement, suspects=suspects, log=self.mark)


def _read_judgement(examples: OutputFolder) -> Judgement:
    """What the last run wrote; of no log where a killed one left half of it."""
    try:
        return msgspec.json.decode(examples.read(TRUST) or "{}", type=Judgement)
    except msgspec.DecodeError:
        return Judgement()


def _outdated(
    log: _Log, wanted: Sequence[str], examples: OutputFolder, judgement: Judgement
) -> dict[str, str]:
    """The days to build, in order, and their new marks."""
    done, suspects, labelling = examples.marks(), judgement.suspects, log.labelling
    content = log.content.of_days
    marks = {day: day_mark(labelling, day, content, log.merged, suspects.get(day, "")) for day in wanted}
    return {d: m for d, m in marks.items() if log.job.rebuild or done.get(f"{DAY_PREFIX}{d}") != m}


def _build_days(
    spark: SparkSession,
    log: _Log,
    examples: OutputFolder,
    marks: Mapping[str, str],
    verdicts: Verdicts,
    report: Report,
    progress: Callable[[str], None],
) -> Report:
    """Write the examples of the days of `marks`; the report with what was written."""
    job, labelling, days = log.job, log.labelling, list(marks)
    last = label_days(days[-1], job.attribution.window_ms)[-1]
    events = log.events.where(sf.col(DAY) <= last)
    n_events = sum(n for day, n in log.counts.of_days.items() if day <= last)
    progress(
        f"{len(days)} days to build, {len(report.skipped)} are up to date; {n_events:,} events,"
        f" {job.buckets} buckets"
    )
    config = LabelConfig(
        first_ms=start_of(days[0]),
        end_ms=start_of(days[-1]) + MS_PER_DAY,
        window_ms=job.attribution.window_ms,
        unshown=labelling.unshown,
        only_named=labelling.only_named,
        negatives=job.negatives,
        seed=job.seed,
    )
    popularity = _popularity(events, config, log.counts.until(last).choices(config.unshown))
    groups = _groups(spark, job, events, days, config, popularity, Merges(log.merged), verdicts)
    every = spark.sparkContext.broadcast(MergeColumns(log.merged))
    found = write_examples(
        spark, examples, groups, lambda bare, theirs: user_side(bare, theirs, every.value.of(theirs))
    )
    examples.publish({f"{DAY_PREFIX}{day}": mark for day, mark in marks.items()})
    examples.write(DEFINITIONS, json.dumps(FEATURES.describe()))
    progress(f"{found['examples']:,} examples written")
    return replace(
        report,
        events=n_events,
        examples=found["examples"],
        sampled=found["sampled"],
        clicks=found["click"],
        conversions=found["conversion"],
    )


def _groups(
    spark: SparkSession,
    job: FeatureJob,
    events: DataFrame,
    days: Sequence[str],
    config: LabelConfig,
    choices: Popularity | None,
    merges: Merges,
    verdicts: Verdicts,
) -> PandasCogroupedOps:
    """What the last pass takes, by bucket of users: bare examples with their items' side, and all events."""
    popularity, known = spark.sparkContext.broadcast(choices), spark.sparkContext.broadcast(verdicts)
    # each pass reads only the columns that it needs from the lake again: a cache of the events costs more
    attributed = sf.col("request_id").isNotNull().alias("attributed")
    common = (*EVENT_KEY, "type", "item_id", TIME, "position", "value", attributed)
    by_item = events.select("item_bucket", *common).groupBy("item_bucket")
    by_user = events.select("user_bucket", *common, *ITEM_CONTEXT).groupBy("user_bucket")

    def labelled(rows: pa.Table) -> pa.Table:
        found = label(rows, config, tuple(REQUEST_TEXTS.values()), popularity.value)
        return trusted_examples(found, rows, known.value)

    bare = events.groupBy("user_bucket").applyInArrow(labelled, from_arrow_schema(BARE_SCHEMA))
    bare = bare.where(day_column().isin(list(days)))  # days in between may be up to date
    bare = bare.withColumn("item_bucket", bucket("item_id", job.buckets))
    bare = joined(spark, bare, job, "items", "item_id", ITEM_TEXTS, ", created_ms long")
    half = BARE_SCHEMA.append(pa.field("item_features", pa.binary()))
    sided = bare.groupBy("item_bucket").cogroup(by_item).applyInArrow(item_side, from_arrow_schema(half))
    sided = with_user_bucket(spark, sided, merges, job.buckets)
    sided = joined(spark, sided, job, "users", "user_id", USER_TEXTS)
    return sided.groupBy("user_bucket").cogroup(by_user)


def _popularity(events: DataFrame, config: LabelConfig, count: int) -> Popularity | None:
    """What negatives are drawn from: about `count` engagements by time, of a part of the users if many."""
    if not count or not config.negatives:
        return None
    pool = events.where(
        sf.col("type").isin([str(t) for t in config.unshown & ENGAGEMENT]) & sf.col("request_id").isNull()
    )
    keep_one_in = -(-count // _POPULARITY_ROWS)
    pool = pool.where(sf.pmod(sf.xxhash64("user_id", sf.lit("popularity")), sf.lit(keep_one_in)) == 0)
    return Popularity.of(pool.select("user_id", "item_id", TIME, "event_id", *ITEM_CONTEXT).toArrow())
