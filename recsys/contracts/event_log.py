"""The event log: append-only, partitioned, keyed by user. `streaming.log` implements it on Kafka.

An offset is the position of a record in its partition. Readers seek by position, so the reader, not the log, knows how
far it has come. `tests/contract/test_event_log.py` runs on Kafka and on an in-memory log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol


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
        """Queue one record; the partition follows from the key (`partition_of`). Raises `Unavailable`: the queue is
        full or the log has been unreachable for too long."""

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return once everything appended before is acknowledged by the log. Raises `Unavailable`: not within
        `timeout_s`."""

    def close(self) -> None: ...


class EventSource(Protocol):
    """Where one reader reads. Not thread-safe: one source per thread."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """The next `poll` of that partition starts here."""

    def unseek(self, topic: str, partition: int) -> None:
        """`poll` no longer reads that partition."""

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """Up to `max_records` records of all sought partitions, in offset order within each.

        Raises:
            LogReplaced: a topic is not the one that was sought (its `log_id` differs); seek again.
            Unavailable: the log cannot be read now.
        """

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next record will get."""

    def log_id(self, topic: str) -> str:
        """Another id once the topic was deleted and created again: it has other records then."""

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
