"""Structured Streaming over `MemoryEventLog`, as far as the Spark engine uses it, without a JVM.

A query is a thread that plans a range of offsets for each partition, calls `foreachBatch` with its rows, and then
reports how far it is. A partition is one task.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, Self

import pyarrow as pa
from pyspark.errors import StreamingQueryException

from recsys.contracts.event_log import Record
from tests.memory_event_log import MemoryEventLog, MemoryEventSource

SCHEMA = pa.schema(
    {
        "topic": pa.string(),
        "partition": pa.int32(),
        "offset": pa.int64(),
        "key": pa.binary(),
        "value": pa.binary(),
        "append_time_ms": pa.int64(),
        "headers": pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()})),
    }
)
Apply = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Call = Callable[[Any, int], None]


def rows_of(records: Sequence[Record], size: int = 7) -> Iterator[pa.RecordBatch]:
    """As Spark gives them to a task, in batches of `size`."""
    for first in range(0, len(records), size):
        yield pa.RecordBatch.from_pylist(
            [
                {
                    "topic": str(r.topic),
                    "partition": r.partition,
                    "offset": r.offset,
                    "key": r.key.encode(),
                    "value": None if r.tombstone else r.value,
                    "append_time_ms": r.append_time_ms,
                    "headers": [{"key": name, "value": value} for name, value in r.headers] or None,
                }
                for r in records[first : first + size]
            ],
            SCHEMA,
        )


class FakeRows:
    """A micro-batch: the records of each task."""

    def __init__(self, tasks: Sequence[Sequence[Record]]) -> None:
        self._tasks = tasks

    def mapInArrow(self, apply: Apply, schema: str) -> Self:  # noqa: N802
        executors = [deepcopy(apply) for _ in self._tasks]  # what travels shares nothing with the driver
        self._answers = [
            row
            for run, task in zip(executors, self._tasks, strict=True)
            for found in run(rows_of(task))
            for row in found.to_pylist()
        ]
        return self

    def coalesce(self, tasks: int) -> Self:
        """Whole partitions, several in a task."""
        self._tasks = [[r for task in self._tasks[n::tasks] for r in task] for n in range(tasks)]
        return self

    def collect(self) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self._answers]


class FakeSpark:
    """`readStream.format(…).options(…).load().selectExpr(…).writeStream.foreachBatch(…).option(…).trigger(…).start()`"""

    def __init__(self, log: MemoryEventLog) -> None:
        self.queries: list[FakeQuery] = []
        self.failing = 0  # queries from now on that fail before their first micro-batch
        self._log = log
        self._options: dict[str, str] = {}
        self.readStream = self.writeStream = self
        self.sparkContext = SimpleNamespace(defaultParallelism=2)

    def _ignored(self, *_: object, **__: object) -> Self:
        return self

    format = load = selectExpr = option = trigger = _ignored  # noqa: N815

    def options(self, **options: str) -> Self:
        self._options = options
        return self

    def foreachBatch(self, call: Call) -> Self:  # noqa: N802
        self._call = call
        return self

    def start(self) -> "FakeQuery":
        self.failing -= 1
        self.queries.append(FakeQuery(self._log, self._options, self._call, self.failing >= 0))
        return self.queries[-1]


class FakeQuery:
    def __init__(self, log: MemoryEventLog, options: dict[str, str], call: Call, fails: bool) -> None:
        starts = json.loads(options["startingOffsets"])
        self._log, self._call = log, call
        self._most = int(options["maxOffsetsPerTrigger"])
        self._at = {(topic, int(n)): at for topic, found in starts.items() for n, at in found.items()}
        self._stop, self._failed = threading.Event(), fails
        self.lastProgress: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.005) and not self._failed:
            tasks, ends = [], dict(self._at)
            for (topic, partition), at in self._at.items():
                records, ends[topic, partition] = self._log.read_up_to(topic, partition, at, self._most)
                tasks += [records] if ends[topic, partition] > at else []
            if not tasks:
                continue
            self._call(FakeRows(tasks), number)
            number, self._at = number + 1, ends
            latest = {where: self._log.end_offset(*where) for where in ends}
            progress = SimpleNamespace(endOffset=_written(ends), latestOffset=_written(latest))
            self.lastProgress = SimpleNamespace(sources=[progress])

    def awaitTermination(self, timeout: float) -> bool:  # noqa: N802
        self._thread.join(timeout)
        if self._failed:
            raise StreamingQueryException("[STREAM_FAILED] terminated with exception: Kafka does not answer")
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class AskedSource(MemoryEventSource):
    """What the engine asks of a `KafkaSource`."""

    def __init__(self, log: MemoryEventLog, accept_gap: bool = False) -> None:
        super().__init__(log, accept_gap)
        self.committed: dict[tuple[str, int], int] = {}

    def check_identity(self) -> None:
        self.poll(0.0, 0)

    def readable_from(self, offsets: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        self.poll(0.0, 0)  # finds the gaps
        return {where: max(at, self._log.oldest.get(where, 0)) for where, at in offsets.items()}

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        self.committed |= offsets


def _written(offsets: Mapping[tuple[str, int], int]) -> str:
    found: dict[str, dict[str, int]] = {}
    for (topic, partition), at in offsets.items():
        found.setdefault(topic, {})[str(partition)] = at
    return json.dumps(found)
