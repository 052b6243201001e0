"""The event log, as its users see it: append-only, partitioned, keyed by user.

`streaming.log` has the Kafka implementation, `MemoryEventLog` here is the one of the tests; one contract suite
runs on both. An offset is the position of a record in its partition; reading is by position, so that the reader
(not the log) is the source of truth for how far it has come.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from recsys.contracts.errors import LogReplaced


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `append_time_ms`: when the log took it (Unix milliseconds)."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    append_time_ms: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


class EventSink(Protocol):
    """Where records are written. Thread-safe."""

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Queue one record; the partition follows from the key (`partition_of`).

        Raises:
            Unavailable: the queue is full or the log has been unreachable for too long.
        """

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return once everything appended before is acknowledged by the log.

        Raises:
            Unavailable: not within `timeout_s`.
        """

    def close(self) -> None: ...


class EventSource(Protocol):
    """Where one reader reads. Not thread-safe: one source a thread."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """The next `poll` of that partition starts here."""

    def unseek(self, topic: str, partition: int) -> None:
        """`poll` reads that partition no more."""

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """Up to `max_records` records of all sought partitions, in offset order within each.

        Raises:
            LogReplaced: a topic is not the one that was sought (its `log_id` differs); seek again.
            Unavailable: the log cannot be read now.
        """

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next record will get."""

    def log_id(self, topic: str) -> str:
        """Tells one life of the topic from another: deleted and created again, it has other records."""

    def close(self) -> None: ...


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: murmur2 as Kafka's default partitioner, so that foreign producers agree.

    >>> [partition_of(k, 4) for k in ("1", "42", "user-7")]
    [3, 0, 0]
    """
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


# for streams: a user's key comes with each of the user's events
remembered_partition_of = lru_cache(maxsize=1 << 17)(partition_of)


def _murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bit, seed 0x9747b28c (org.apache.kafka.common.utils.Utils.murmur2)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    h = 0x9747B28C ^ length
    for i in range(0, length - 3, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    tail = data[length & ~3 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


class MemoryEventLog:
    """`EventSink` of the tests, thread-safe; `source()` gives any number of `EventSource`s on it."""

    def __init__(self, partitions: int = 4) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._records: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self._lives = 0

    def lose(self) -> None:
        """Forget everything, as an embedded broker does that is killed and started again."""
        with self._lock:
            self._records.clear()
            self._lives += 1

    def log_id(self, topic: str) -> str:
        return f"{topic}-{self._lives}"

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        partition = partition_of(key, self._partitions)
        with self._lock:
            log = self._records[topic, partition]
            log.append(Record(topic, partition, len(log), key, value, headers=tuple(headers)))

    def flush(self, timeout_s: float = 10.0) -> None:
        pass

    def close(self) -> None:
        pass

    def source(self) -> "MemoryEventSource":
        return MemoryEventSource(self)

    def partitions(self, topic: str) -> int:
        return self._partitions

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        with self._lock:
            return self._records[topic, partition][offset : offset + limit]

    def end_offset(self, topic: str, partition: int) -> int:
        with self._lock:
            return len(self._records[topic, partition])


class MemoryEventSource:
    """Reads a `MemoryEventLog` by position."""

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self._position: dict[tuple[str, int], int] = {}
        self._log_ids: dict[str, str] = {}

    def partitions(self, topic: str) -> int:
        return self._log.partitions(topic)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._position[topic, partition] = offset
        self._log_ids[topic] = self.log_id(topic)

    def unseek(self, topic: str, partition: int) -> None:
        self._position.pop((topic, partition), None)

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        for topic, sought in self._log_ids.items():
            if self.log_id(topic) != sought:
                raise LogReplaced(f"topic {topic} is not the one that was read; claim its partitions again")
        found: list[Record] = []
        for (topic, partition), offset in self._position.items():
            records = self._log.read(topic, partition, offset, max_records - len(found))
            self._position[topic, partition] = offset + len(records)
            found += records
        return found

    def end_offset(self, topic: str, partition: int) -> int:
        return self._log.end_offset(topic, partition)

    def log_id(self, topic: str) -> str:
        return self._log.log_id(topic)

    def close(self) -> None:
        pass
