"""The Spark engine: Structured Streaming reads the log, and the steps of `streaming.worker.feature_worker` apply it.

The driver does step 1 (claims) and steps 4 and 5; executors do steps 2 and 3 (`tasks`), a partition of the log in one
task. The store is the source of truth here, too: a query starts at the offsets that its claims return, and its
checkpoint, which Spark insists on, is thrown away with it. A query whose partitions, epochs or offsets no longer hold
is stopped, and another one is started, with new claims: so whatever still runs of the old one is fenced.
"""

import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
from pyspark.errors import AnalysisException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from tenacity import RetryError

from recsys.contracts.errors import InvalidConfig, LogReplaced, Unavailable
from recsys.store.base import FeatureStore
from streaming.log import KafkaSource, Partition
from streaming.settings import StreamSettings
from streaming.spark.connector import CONNECTOR_NAMED
from streaming.spark.kafka_options import source_options
from streaming.spark.tasks import DONE, Done, MicroBatch
from streaming.worker.claims import Claims, WorkerConfig
from streaming.worker.metrics import WorkerMetrics
from streaming.worker.outages import retried

COLUMNS = (
    "topic",
    "partition",
    "offset",
    "key",
    "value",
    "unix_millis(timestamp) AS append_time_ms",
    "headers",
)
MAX_RECORDS = 20_000  # of a micro-batch: some seconds' work, after which partitions may change hands
TRIGGER_MS = 200  # while nothing comes, Spark asks Kafka this often
_LOOK_S = 0.1
_PATIENCE_S = 30.0  # for a micro-batch to end: stopping its query ends its Python processes, too
_REASON = 500  # characters

_log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder(Done).decode


class SparkEngine:
    """One worker among others, of any engine. `source` is asked about the log, and never polled."""

    def __init__(
        self,
        spark: SparkSession,
        settings: StreamSettings,
        config: WorkerConfig,
        store: FeatureStore,
        source: KafkaSource,
    ) -> None:
        """The partitions are shared with the other workers, unless `claims.own` fixes them."""
        self.metrics = WorkerMetrics()
        self.claims = Claims(store, config, self.metrics)
        self._spark = spark
        self._settings = settings
        self._config = config
        self._source = source
        self._applying = threading.Lock()  # a micro-batch is in flight
        self._query: Any = None
        self._queries = 0  # ever started
        self._reads: set[Partition] = set()  # by the query
        self._checkpoint = contextlib.ExitStack()
        self._failure = ""  # of the last micro-batch
        self._reported = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`, then finish the micro-batch in flight. Raises as `FeatureWorker.run`."""
        restart = retried(stop, self._config.max_backoff_s)
        try:
            while not stop.is_set():
                try:
                    restart(self._restart)
                    self._follow(stop)
                except RetryError:
                    break  # stopped while waiting
                except (Unavailable, LogReplaced) as error:
                    _log.warning("feature worker restarts from the stored offsets", reason=str(error))
                    self.metrics.outages.inc()
                    stop.wait(self._config.fenced_pause_s)
        finally:
            self._end_query()
        with contextlib.suppress(Unavailable):  # the next owner rereads what is not stored
            self._report()
            self.claims.leave()

    # --- on the driver's main thread -----------------------------------------------------------------------------

    def _restart(self) -> None:
        """(1) Claim all owned partitions again, and read from the stored offsets on."""
        self._end_query()
        self.metrics.stepped()  # waiting is working
        self._failure = ""
        self.claims.give_up()
        self.claims.check(self._source)
        self._share()
        self.claims.claim(self._source)
        starts = self._source.readable_from({where: c.position for where, c in self.claims.held.items()})
        for gap in self._source.gaps():
            self.claims.pass_gap(gap)
        self._start_query(starts)

    def _follow(self, stop: threading.Event) -> None:
        """Until the query does not read what it should, or `stop`. Raises `Unavailable`: the query has failed."""
        while not stop.is_set():
            self._wait(stop)
            self._source.check_identity()
            self._share()
            is_outdated = self.claims.unclaimed() or self.claims.held.keys() != self._reads
            if self._failure:
                raise Unavailable(self._failure)
            if is_outdated:
                return
            if self._applying.acquire(blocking=False):
                try:
                    self._pass_markers()
                    if self.claims.is_check_due():
                        self.claims.check_idle()
                finally:
                    self._applying.release()
                self.metrics.stepped()
            if time.monotonic() - self._reported >= self._config.report_s:
                self._report()

    def _wait(self, stop: threading.Event) -> None:
        if self._query is None:
            stop.wait(_LOOK_S)
            return
        try:
            if self._query.awaitTermination(_LOOK_S):
                raise Unavailable("Spark has ended the query")
        except StreamingQueryException as error:
            raise Unavailable(_reason(error)) from error

    def _share(self) -> None:
        if self.claims.is_heartbeat_due():
            self.claims.share(self._source)

    def _pass_markers(self) -> None:
        """As `FeatureWorker._pass_markers`, up to where the last micro-batch ended. None may be in flight."""
        for where, end in self._progress("endOffset").items():
            claim = self.claims.held.get(where)
            if claim is not None and claim.position < end:
                self.claims.move(claim, end)

    def _report(self) -> None:
        """(4) Commit the positions to Kafka for its tools, and report the lag."""
        self._reported = time.monotonic()
        positions = {where: claim.position for where, claim in list(self.claims.held.items())}
        self._source.commit(positions)
        ends = self._progress("latestOffset")
        self.claims.report({where: max(0, ends.get(where, 0) - at) for where, at in positions.items()})

    def _progress(self, which: str) -> dict[Partition, int]:
        """Offsets of the query's latest report; empty before the first."""
        progress = self._query and self._query.lastProgress
        found = json.loads(getattr(progress.sources[0], which)) if progress else None
        named = self._settings.kafka.named
        return {(named(topic), int(n)): at for topic, ends in (found or {}).items() for n, at in ends.items()}

    # --- the query -----------------------------------------------------------------------------------------------

    def _start_query(self, starts: dict[Partition, int]) -> None:
        self._reads = set(starts)
        if not starts:
            return
        checkpoint = self._checkpoint.enter_context(
            tempfile.TemporaryDirectory(prefix="recsys-spark-", ignore_cleanup_errors=True)
        )
        try:
            options = source_options(self._settings.kafka, starts, MAX_RECORDS)
            rows = self._spark.readStream.format("kafka").options(**options).load().selectExpr(*COLUMNS)
        except AnalysisException as error:
            raise InvalidConfig(f"Spark has no Kafka connector ({error}); {CONNECTOR_NAMED}") from error
        self._queries += 1
        number = self._queries
        writer = rows.writeStream.foreachBatch(lambda batch, _: self._apply(batch, number))
        writer = writer.option("checkpointLocation", Path(checkpoint).as_uri())
        self._query = writer.trigger(processingTime=f"{TRIGGER_MS} milliseconds").start()

    def _end_query(self) -> None:
        """What is in flight gets some time to end. Whatever does not is fenced by the next claims."""
        if self._query is not None:
            self._queries += 1  # micro-batches that begin now do nothing
            self._await_micro_batch()
            self._query.stop()
        self._query = None
        self._checkpoint.close()

    def _await_micro_batch(self) -> None:
        for _ in range(int(_PATIENCE_S / _LOOK_S)):
            if self._applying.acquire(timeout=_LOOK_S):
                self._applying.release()
                return
            with contextlib.suppress(Unavailable):
                self._share()  # still alive

    def _apply(self, rows: DataFrame, query: int) -> None:
        """A micro-batch, on the query's thread. To Spark it is done even if it fails, but all claims are given up, and
        the query with them. (Spark 4.2 may not survive an error of Python's: it parses the text by a regular expression
        that can overflow the thread's stack.)"""
        with self._applying:
            if query != self._queries:
                return  # it is being stopped
            work = MicroBatch(self._settings, self._config, dict(self.claims.held))
            # a task for each core, not for each partition: a small one costs more to start than to run
            tasks = rows.coalesce(self._spark.sparkContext.defaultParallelism)
            try:
                for (content,) in tasks.mapInArrow(work.apply, f"{DONE} binary").collect():
                    self._note(_decode(content))
            except Exception as error:  # of any task, for any reason
                self._failure = _reason(error)
                self.claims.give_up()
            self.metrics.stepped()

    def _note(self, done: Done) -> None:
        """(5) What a task has done with a partition. Unless it has done everything, the claim is given up: the query's
        position is no longer that of the store."""
        for tally in done.tallies:
            self.metrics.count(tally)
        where = (done.topic, done.partition)
        claim = self.claims.held.get(where)
        if claim is None or claim.epoch != done.epoch:
            return
        claim.position, claim.watermark_ms = done.position, done.watermark_ms
        if done.unavailable:
            self._failure = done.unavailable
            self.claims.held.pop(where, None)
        else:
            self.claims.accepted(where, done.epoch, done.outcome)


def _reason(error: Exception) -> str:
    """What failed, without the traces of two languages."""
    return f"Spark: {' '.join(str(error).split())[:_REASON]}"
