"""The Spark session, and atomic output on any file system that Hadoop knows (`file:`, `hdfs:`, `s3a:`)."""

import os
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeAlias

from pyspark.sql import SparkSession

# For annotations outside this package, which alone imports pyspark.
Session: TypeAlias = SparkSession

# Halves the CPU time of a job of minutes (27 instead of 51 s measured); long jobs want the full compiler.
_SHORT_JOB = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SUCCESS = "_SUCCESS"


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
        "spark.sql.sources.partitionOverwriteMode": "dynamic",
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
            # without native libraries, Hadoop runs `chmod` for each file; this spares those of its checksum files
            "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        } | settings
    builder = SparkSession.builder.master(master).appName("recsys-features")
    session: SparkSession = builder.config(map=settings).getOrCreate()
    return session


class OutputFolder:
    """A folder whose partitions appear whole or not at all.

    A job writes to `staging`; `publish` then moves each partition into place and marks it with `_SUCCESS`.
    On file systems whose rename is a copy (s3a), readers wait for that mark.
    """

    def __init__(self, spark: SparkSession, folder: str) -> None:
        self._jvm: Any = spark._jvm
        self._folder = folder.rstrip("/")
        self.staging = f"{self._folder}/_building-{uuid.uuid4().hex[:8]}"
        path = self._path(self._folder)
        self._fs: Any = path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())

    def publish(self, marks: dict[str, str]) -> None:
        """Replace partitions. `marks`: partition name → content of its mark."""
        for name, mark in sorted(marks.items()):
            target = self._path(f"{self._folder}/{name}")
            self._fs.delete(target, True)
            source = self._path(f"{self.staging}/{name}")
            if not self._fs.exists(source):  # a day without rows is done, too
                self._fs.mkdirs(target)
            elif not self._fs.rename(source, target):
                raise OSError(f"could not move {self.staging}/{name} to {self._folder}/{name}")
            self.write(f"{name}/{SUCCESS}", mark)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the staging folder."""
        self._fs.delete(self._path(self.staging), True)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._fs.delete(self._path(f"{self._folder}/{name}"), True)

    def names(self) -> list[str]:
        """Names in the folder; empty if it does not exist."""
        path = self._path(self._folder)
        if not self._fs.exists(path):
            return []
        return [status.getPath().getName() for status in self._fs.listStatus(path)]

    def marks(self) -> dict[str, str]:
        """Finished partitions and the content of their marks."""
        marks = {name: self._path(f"{self._folder}/{name}/{SUCCESS}") for name in self.names()}
        return {name: self._read(mark) for name, mark in marks.items() if self._fs.exists(mark)}

    def _path(self, text: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(text)

    def write(self, name: str, text: str) -> None:
        stream = self._fs.create(self._path(f"{self._folder}/{name}"), True)
        stream.write(bytearray(text.encode()))
        stream.close()

    def _read(self, path: Any) -> str:
        stream = self._fs.open(path)
        content = bytes(stream.readAllBytes())
        stream.close()
        return content.decode()
