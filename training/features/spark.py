"""The Spark session."""

import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

from pyspark.sql import SparkSession

# For annotations outside this package, which alone imports pyspark.
Session: TypeAlias = SparkSession

# Halves the CPU time of a job of minutes (27 instead of 51 s measured); long jobs want the full compiler.
_SHORT_JOB = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def spark_session(
    master: str = "local[*]", memory: str = "2g", conf: Sequence[tuple[str, str]] = ()
) -> SparkSession:
    """A session with Arrow and UTC.

    Args:
        master: `local[2]`, `yarn`, `spark://…`, `k8s://…`.
        memory: of the driver (with a local master: of everything) and of each executor.
        conf: further settings, such as s3a credentials; they override ours.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.driver.memory": memory,
        "spark.executor.memory": memory,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # tasks move their files into the staging folder themselves; `OutputFolder.publish` is the commit
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        **dict(conf),
    }
    if master.startswith("local"):
        settings = {
            "spark.driver.extraJavaOptions": _SHORT_JOB,
            "spark.sql.shuffle.partitions": "8",
            # listing days here is faster than the job of many tasks that Spark would start
            "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        } | settings
    builder = SparkSession.builder.master(master).appName("recsys-features")
    session: SparkSession = builder.config(map=settings).getOrCreate()
    return session
