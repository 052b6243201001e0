"""The tables of a lake, at any path that Hadoop reads.

A lake that was pushed to an object store (`recsys.lake.mirror`) is read as its snapshot lists it: its folders may also
have files of a push that is under way or was killed, and files that a push has replaced.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.types import StructType

from recsys.contracts.errors import InvalidData
from recsys.lake.forget import FOLDER as MARKS
from recsys.lake.lake import DAY_PREFIX, EVENTS
from recsys.lake.snapshot import SNAPSHOT, object_name, parse_snapshot
from training.features.output_folder import output_folder


@dataclass(frozen=True)
class LakeTables:
    """`pushed`: table → its files of a snapshot, by their paths below the lake; None: what its folder has."""

    lake: str
    pushed: Mapping[str, Sequence[str]] | None = None

    def read(self, spark: SparkSession, table: str, schema: StructType) -> DataFrame:
        """Without its schema, Spark refuses a table that has no files yet.
        Raises `InvalidData`: a file of the snapshot is gone."""
        folder = f"{self.lake}/{table}"
        files = (
            None if self.pushed is None else [f"{self.lake}/{path}" for path in self.pushed.get(table, ())]
        )
        if files == []:
            return spark.createDataFrame([], schema)
        reader = spark.read.schema(schema)
        if files:
            with self._of_the_snapshot():
                return reader.option("basePath", folder).parquet(*files)
        try:
            return reader.parquet(folder)
        except Exception as error:
            if not _is_missing(error):
                raise
            return spark.createDataFrame([], schema)

    def days(self, spark: SparkSession) -> list[str]:
        """Those that have events, in order."""
        if self.pushed is None:
            names = output_folder(spark, f"{self.lake}/{EVENTS}").names()
        else:
            names = [PurePosixPath(path).parent.name for path in self.pushed.get(EVENTS, ())]
        return sorted({name.removeprefix(DAY_PREFIX) for name in names if name.startswith(DAY_PREFIX)})

    def forgotten(self, spark: SparkSession) -> dict[str, int]:
        """As `recsys.lake.forget.forgotten_users`, of a snapshot. Raises `InvalidData`: a mark is gone or damaged."""
        marks = [f"{self.lake}/{path}" for path in (self.pushed or {}).get(MARKS, ())]
        if not marks:
            return {}
        with self._of_the_snapshot():
            table = spark.read.schema("until_ms long").json(marks)
            rows = table.select(sf.input_file_name(), "until_ms").collect()
        found = {PurePosixPath(path).name.partition(".")[0]: until_ms for path, until_ms in rows}
        if len(found) < len(marks) or None in found.values():
            raise InvalidData(
                f"{self.lake}/{MARKS}: a mark of a forgotten user is damaged; forget the user again"
            )
        return found

    @contextmanager
    def _of_the_snapshot(self) -> Iterator[None]:
        """Its files were there when it was pushed."""
        try:
            yield
        except Exception as error:
            if not _is_missing(error):
                raise
            raise InvalidData(f"{self.lake} was pushed to while it was read: run this again") from error


def _is_missing(error: Exception) -> bool:
    """pyspark raises an AnalysisException for a path that is not there."""
    return "PATH_NOT_FOUND" in str(error)


def lake_tables(spark: SparkSession, lake: str) -> LakeTables:
    """Raises `InvalidData`: its snapshot is damaged."""
    content = output_folder(spark, lake).read(SNAPSHOT)
    if content is None:
        return LakeTables(lake)
    snapshot, pushed = parse_snapshot(content.encode(), f"{lake}/{SNAPSHOT}"), defaultdict(list)
    for path, file in snapshot.files.items():
        if not PurePosixPath(path).name.startswith("_"):  # as in a folder
            pushed[PurePosixPath(path).parts[0]].append(object_name(path, file))
    return LakeTables(lake, dict(pushed))
