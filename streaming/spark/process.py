"""The process of the Spark engine: it connects, works until it is stopped, and closes."""

import contextlib
import threading
from collections.abc import Sequence

from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.spark_session import spark_session
from streaming.log import KafkaSource
from streaming.settings import StreamSettings
from streaming.spark.connector import CONNECTOR_NAMED, connector
from streaming.spark.engine import SparkEngine
from streaming.worker.metrics import WorkerMetrics
from streaming.worker.process import GROUP, open_store, worker_config

_MEMORY = "1g"


def main(
    settings: StreamSettings, stop: threading.Event, partitions: Sequence[int] = (), accept_gap: bool = False
) -> WorkerMetrics:
    """As `streaming.worker.process.main`. Raises `InvalidConfig`: the broker is the one in memory."""
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(contextlib.closing(open_store(settings)))
        source = KafkaSource.once_reachable(settings.kafka, stop, accept_gap=accept_gap, group_id=GROUP)
        if source is None:
            return WorkerMetrics()
        opened.enter_context(contextlib.closing(source))
        if source.is_memory_kafka:
            raise InvalidConfig(
                "the Spark engine needs Apache Kafka: the broker in memory tells Java's client wrongly where partitions"
                " end; start `recsys up --kafka apache`"
            )
        spark = open_session(settings)
        opened.callback(spark.stop)
        engine = SparkEngine(spark, settings, worker_config(settings), store, source)
        if settings.worker_metrics_port:
            engine.metrics.serve(settings.worker_metrics_port)
        if partitions:
            engine.claims.own(partitions)
        engine.run(stop)
        return engine.metrics


def open_session(settings: StreamSettings) -> SparkSession:
    """Raises `Unavailable`: Spark does not start; most often for want of the connector."""
    conf = (connector(settings.spark_jars), ("spark.app.name", "recsys-stream"))
    try:
        return spark_session(settings.spark_master, _MEMORY, conf)
    except PySparkRuntimeError as error:
        raise Unavailable(f"Spark does not start, see above ({error}); {CONNECTOR_NAMED}") from error
