"""The Spark session."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias
from zipfile import ZIP_DEFLATED, ZipFile

from pyspark.sql import SparkSession

# For annotations outside this package, which alone imports pyspark.
Session: TypeAlias = SparkSession

# Halves the CPU time of a job of minutes (27 instead of 51 s measured); long jobs want the full compiler.
_SHORT_JOB = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_SHIPPED = ("recsys", "streaming", "training")  # packages that tasks import
_SUFFIXES = (".py", ".lua", ".yaml")


def spark_session(
    master: str = "local[*]", memory: str = "2g", conf: Sequence[tuple[str, str]] = ()
) -> SparkSession:
    """A session with Arrow and UTC. Where `spark-submit` started this program, as Kubernetes' operator does, master,
    memory and code are what it was given.

    Args:
        master: `local[2]`, `yarn`, `spark://…`, `k8s://…`.
        memory: of the driver (with a local master: of everything) and of each executor.
        conf: further settings, such as s3a credentials; they override ours.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # tasks move their files into the staging folder themselves; `OutputFolder.publish` is the commit
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        **dict(conf),
    }
    if not submitted:
        settings = {
            "spark.master": master,
            "spark.driver.memory": memory,
            "spark.executor.memory": memory,
        } | settings
    if is_local(master) and not submitted:
        settings = {
            "spark.driver.extraJavaOptions": _SHORT_JOB,
            "spark.sql.shuffle.partitions": "8",
            # listing days here is faster than the job of many tasks that Spark would start
            "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        } | settings
    builder = SparkSession.builder.appName("recsys-features")
    session: SparkSession = builder.config(map=settings).getOrCreate()
    if not is_local(master) and not submitted:
        folder = tempfile.mkdtemp(prefix="recsys-spark-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors fetch it as they start
        session.sparkContext.addPyFile(str(write_code(Path(folder) / "recsys-code.zip")))
    return session


def is_local(master: str) -> bool:
    """Whether tasks run in this machine's Python; not those of `local-cluster`, which has executors of its own."""
    return master == "local" or master.startswith("local[")


def write_code(archive: Path) -> Path:
    """This project's code as executors import it, whatever they have installed; the libraries it uses they must have.
    Compiled parts stay here: an executor may be another machine."""
    with ZipFile(archive, "w", ZIP_DEFLATED) as written:
        for package in _SHIPPED:
            root = Path(str(files(package)))
            for path in sorted(root.rglob("*")):
                if path.suffix in _SUFFIXES:
                    written.write(path, Path(package) / path.relative_to(root))
    return archive
