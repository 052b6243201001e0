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
    """One record. `append_time_ms`: when the log took it (Unix milliseconds). `tombstone`: it has no value, not even an
    empty one, which on a topic of changes deletes the key."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    append_time_ms: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()
    tombstone: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Records from `offset` to before `next_offset` that no reader can read: a damaged batch, an unknown format. Its
    partition is not read any further. `batch`: their bytes, as far as there are any."""

    topic: str
    partition: int
    offset: int
    next_offset: int
    reason: str
    batch: bytes = b""

    def __str__(self) -> str:
        return (
            f"{self.topic}/{self.partition} stops at offset {self.offset}: {self.reason}; "
            f"`recsys stream skip {self.topic} {self.partition} {self.offset}` moves it into the dead letters"
        )


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Records from `offset` on that no reader gets yet: a producer's transaction that began there is open."""

    topic: str
    partition: int
    offset: int
    records: int  # markers and those of other producers included
    seconds: float  # for how long this has been seen

    def __str__(self) -> str:
        return (
            f"{self.topic}/{self.partition}: an open transaction has held back {self.records} records from offset "
            f"{self.offset} on for {self.seconds:.0f} s; `recsys status` names it (docs/operations.md,"
            " TransactionStaysOpen)"
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Records from offset `first` to before `next` that the log has deleted before this reader came to them."""

    topic: str
    partition: int
    first: int
    next: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition} from offset {self.first} to {self.next - 1}"


class EventSink(Protocol):
    """Where records are written. Thread-safe."""

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Queue one record; the partition follows from the key (`partition_of`). Without a value, not even an empty
        one, it is a tombstone: what is empty is sent so. Raises `Unavailable`: the queue is
        full or the log has been unreachable for too long."""

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return once everything appended before is acknowledged by the log. Raises `Unavailable`: not within
        `timeout_s`."""

    def close(self) -> None: ...


class EventSource(Protocol):
    """Where one reader reads. Not thread-safe: one source per thread. It gets committed records only: the markers of
    transactions, and what their producers took back, have offsets but are never given."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """The next `poll` of that partition starts here."""

    def unseek(self, topic: str, partition: int) -> None:
        """`poll` no longer reads that partition."""

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """Up to `max_records` records of all sought partitions, in offset order within each. A batch that cannot be
        read stops its partition alone, until it can be read or is skipped.

        Raises:
            LogReplaced: a topic is not the one that was sought (its `log_id` differs), or has got partitions; seek
                again.
            Unavailable: the log cannot be read now.
            InvalidData: it has deleted records that were not read yet, and the source may not pass them.
        """

    def gaps(self) -> Sequence[Gap]:
        """The records that `poll` has passed since the last call, because the log no longer has them."""

    def unreadable(self) -> Sequence[Unreadable]:
        """The partitions that stopped, and why."""

    def held_back(self) -> Sequence[HeldBack]:
        """The partitions that open transactions hold back, where that lasts longer than a transaction should."""

    def position(self, topic: str, partition: int) -> int:
        """Of a partition that was sought: everything before this offset was given by `poll`, or is not given."""

    def end_offset(self, topic: str, partition: int) -> int:
        """Up to here the partition can be read now: the offset that the next record will get, or that of the first
        record of the oldest open transaction."""

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
