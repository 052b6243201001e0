"""Output that appears whole or not at all, on any file system that Hadoop knows (`file:`, `hdfs:`, `s3a:`).

A job writes to `staging`; `publish` then moves each partition into place and marks it with `_SUCCESS`. Files of this
machine are moved by Python: Hadoop starts a process for each (`chmod`), which for a log of many small days takes longer
than all the rest.
"""

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pyspark.sql import SparkSession

from recsys.files import atomic_write

SUCCESS = "_SUCCESS"


class OutputFolder(Protocol):
    """A context manager, which removes the staging folder."""

    staging: str

    def publish(self, marks: dict[str, str]) -> None:
        """Replace partitions. `marks`: partition name → content of its mark. A partition without files is done, too."""

    def remove(self, names: Iterable[str]) -> None: ...

    def names(self) -> list[str]:
        """Names in the folder; empty if it does not exist."""

    def marks(self) -> dict[str, str]:
        """Finished partitions and the content of their marks."""

    def write(self, name: str, text: str) -> None:
        """A file in the folder."""

    def read(self, name: str) -> str | None:
        """A file in the folder; None: it is not there."""

    def __enter__(self) -> "OutputFolder": ...

    def __exit__(self, *error: object) -> None: ...


def output_folder(spark: SparkSession, folder: str) -> OutputFolder:
    """The folder at a path or URL."""
    local = local_path(spark, folder)
    return HadoopFolder(spark, folder) if local is None else LocalFolder(local)


def local_path(spark: SparkSession, folder: str) -> Path | None:
    """Where Python finds the folder; None: only Hadoop does."""
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(folder)
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    on_disk = path.getFileSystem(conf).getUri().getScheme() == "file"
    return Path(path.toUri().getPath()).absolute() if on_disk else None


class LocalFolder:
    """An `OutputFolder` of this machine, or one that all machines mount at the same path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.staging = f"{folder}/{_staging()}"

    def publish(self, marks: dict[str, str]) -> None:
        for name, mark in sorted(marks.items()):
            target, source = self._folder / name, Path(self.staging) / name
            shutil.rmtree(target, ignore_errors=True)
            if source.exists():
                source.rename(target)
            else:
                target.mkdir(parents=True)
            self.write(f"{name}/{SUCCESS}", mark)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir()] if self._folder.exists() else []

    def marks(self) -> dict[str, str]:
        found = {name: self.read(f"{name}/{SUCCESS}") for name in self.names()}
        return {name: mark for name, mark in found.items() if mark is not None}

    def write(self, name: str, text: str) -> None:
        atomic_write(self._folder / name, text.encode())

    def read(self, name: str) -> str | None:
        path = self._folder / name
        return path.read_text(encoding="utf-8") if path.exists() else None

    def __enter__(self) -> "LocalFolder":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)


class HadoopFolder:
    """An `OutputFolder` behind Hadoop. Where a rename is a copy (s3a), readers wait for the mark."""

    def __init__(self, spark: SparkSession, folder: str) -> None:
        self._jvm: Any = spark._jvm
        self._folder = folder.rstrip("/")
        self.staging = f"{self._folder}/{_staging()}"
        path = self._path(self._folder)
        conf = spark._jsparkSession.sessionState().newHadoopConf()
        self._fs: Any = path.getFileSystem(conf)

    def publish(self, marks: dict[str, str]) -> None:
        for name, mark in sorted(marks.items()):
            target = self._path(f"{self._folder}/{name}")
            self._fs.delete(target, True)
            source = self._path(f"{self.staging}/{name}")
            if not self._fs.exists(source):
                self._fs.mkdirs(target)
            elif not self._fs.rename(source, target):
                raise OSError(f"could not move {self.staging}/{name} to {self._folder}/{name}")
            self.write(f"{name}/{SUCCESS}", mark)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._fs.delete(self._path(f"{self._folder}/{name}"), True)

    def names(self) -> list[str]:
        path = self._path(self._folder)
        if not self._fs.exists(path):
            return []
        return [status.getPath().getName() for status in self._fs.listStatus(path)]

    def marks(self) -> dict[str, str]:
        found = {name: self.read(f"{name}/{SUCCESS}") for name in self.names()}
        return {name: mark for name, mark in found.items() if mark is not None}

    def write(self, name: str, text: str) -> None:
        stream = self._fs.create(self._path(f"{self._folder}/{name}"), True)
        stream.write(bytearray(text.encode()))
        stream.close()

    def read(self, name: str) -> str | None:
        path = self._path(f"{self._folder}/{name}")
        if not self._fs.exists(path):
            return None
        stream = self._fs.open(path)
        content = bytes(stream.readAllBytes())
        stream.close()
        return content.decode()

    def __enter__(self) -> "HadoopFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._fs.delete(self._path(self.staging), True)

    def _path(self, text: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(text)


def _staging() -> str:
    return f"_building-{uuid.uuid4().hex[:8]}"
