"""What executors do: apply a micro-batch, each partition of the log in offset order, by the worker's own steps.

A task may run twice, even at the same time as its double: both begin with the same claim, cut the same batches, and the
store skips what is below its offset. One of an engine that is gone has an old epoch: it is fenced.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import attrgetter

import msgspec
import pyarrow as pa

from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import Record
from recsys.kafka_connection import KafkaConnection
from recsys.observability.exporters import open_traces
from recsys.store.base import Outcome
from streaming.log import KafkaSink, Partition
from streaming.settings import StreamSettings
from streaming.worker.applier import Applier, tally
from streaming.worker.batches import Claim, batches
from streaming.worker.claims import WorkerConfig
from streaming.worker.metrics import Tally
from streaming.worker.process import open_store

DONE = "done"  # the one column of a task's answer
_partition = attrgetter("topic", "partition")


class Done(msgspec.Struct):
    """How far a task has come with one partition. `unavailable`: the server that was away, and why."""

    topic: str
    partition: int
    epoch: int
    position: int
    watermark_ms: int
    outcome: Outcome = Outcome.APPLIED
    unavailable: str = ""
    tallies: list[Tally] = []


@dataclass(frozen=True)
class MicroBatch:
    """What its tasks need: who writes, as which claimant, by which rules."""

    settings: StreamSettings
    config: WorkerConfig
    claims: Mapping[Partition, Claim]

    def apply(self, rows: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For `mapInArrow`: the records of whole partitions in, one `Done` for each of them out."""
        applier = open_applier(self.settings)
        for where, records in groupby(read_records(rows, self.settings.kafka), key=_partition):
            if (claim := self.claims.get(where)) is not None:  # else it was given up
                done = apply_records(applier, claim, records, self.config)
                yield pa.record_batch({DONE: [msgspec.json.encode(done)]})


@cache
def open_applier(settings: StreamSettings) -> Applier:
    """Once in each Python process of an executor, which serves many tasks."""
    traces = open_traces(settings.traces, "recsys-worker")
    return Applier(open_store(settings), KafkaSink(settings.kafka, settings.partitions), traces)


def apply_records(applier: Applier, claim: Claim, records: Iterable[Record], config: WorkerConfig) -> Done:
    """Until the store refuses a batch, or a server is away: then the rest is read again from the store's offset. By as
    few calls as may be: an event waits longer for its micro-batch than for the others of its call."""
    done = Done(claim.topic, claim.partition, claim.epoch, claim.position, claim.watermark_ms)
    try:
        for prepared in batches(claim, records, config.partitions, config.rules, config.max_batch):
            applier.refuse(prepared)
            applied = applier.apply(prepared)
            done.outcome = applied.outcome
            if applied.outcome is not Outcome.APPLIED:
                break
            done.position, done.watermark_ms = prepared.batch.next_offset, prepared.batch.watermark_ms
            done.tallies.append(tally(prepared, applied))
    except Unavailable as error:
        done.unavailable = str(error)
    return done


def read_records(rows: Iterable[pa.RecordBatch], kafka: KafkaConnection) -> Iterator[Record]:
    """Rows with the columns of `streaming.spark.engine.COLUMNS` as the worker's source gives them."""
    now_ms = time.time_ns() // 1_000_000
    for batch in rows:
        for row in batch.to_pylist():
            yield Record(
                topic=kafka.named(row["topic"]),
                partition=row["partition"],
                offset=row["offset"],
                key=(row["key"] or b"").decode(errors="replace"),
                value=row["value"] or b"",
                append_time_ms=min(row["append_time_ms"], now_ms),
                headers=tuple((each["key"], each["value"] or b"") for each in row["headers"] or ()),
                tombstone=row["value"] is None,
            )
