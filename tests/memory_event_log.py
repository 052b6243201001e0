"""The event log in memory: `recsys.contracts.event_log` without a broker."""

import threading
from collections import defaultdict
from collections.abc import Sequence

from recsys.contracts.errors import InvalidData, LogReplaced
from recsys.contracts.event_log import Gap, HeldBack, Record, Unreadable, partition_of


class MemoryEventLog:
    """`EventSink`, thread-safe; `source()` gives any number of `EventSource`s on it."""

    def __init__(self, partitions: int = 4) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._records: dict[tuple[str, int], list[Record | None]] = defaultdict(list)  # None: a marker
        self._lives = 0
        self.held_back: list[HeldBack] = []
        self.oldest: dict[tuple[str, int], int] = {}
        self.broken: dict[tuple[str, int], Unreadable] = {}  # where a partition cannot be read any further

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
            log.append(
                Record(topic, partition, len(log), key, value, headers=tuple(headers), tombstone=not value)
            )

    def add_partitions(self, count: int) -> None:
        self._partitions += count

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """As Kafka's retention does."""
        self.oldest[topic, partition] = offset

    def break_at(self, topic: str, partition: int, offset: int) -> None:
        """One record, of one byte, that cannot be read."""
        found = Unreadable(topic, partition, offset, offset + 1, "test: damaged", b"?")
        self.broken[topic, partition] = found

    def mark(self, topic: str, partition: int) -> None:
        """Append the marker of a transaction: an offset without a record."""
        with self._lock:
            self._records[topic, partition].append(None)

    def flush(self, timeout_s: float = 10.0) -> None:
        pass

    def close(self) -> None:
        pass

    def source(self, accept_gap: bool = False) -> "MemoryEventSource":
        return MemoryEventSource(self, accept_gap)

    def partitions(self, topic: str) -> int:
        return self._partitions

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        return self.read_up_to(topic, partition, offset, limit)[0]

    def read_up_to(self, topic: str, partition: int, offset: int, limit: int) -> tuple[list[Record], int]:
        """The records of `limit` offsets, and the next offset."""
        with self._lock:
            found = self._records[topic, partition][offset : offset + limit]
        return [record for record in found if record is not None], offset + len(found)

    def end_offset(self, topic: str, partition: int) -> int:
        with self._lock:
            return len(self._records[topic, partition])


class MemoryEventSource:
    """Reads a `MemoryEventLog` by position."""

    def __init__(self, log: MemoryEventLog, accept_gap: bool = False) -> None:
        self._log = log
        self._accept_gap = accept_gap
        self._gaps: list[Gap] = []
        self._position: dict[tuple[str, int], int] = {}
        self._log_ids: dict[str, tuple[str, int]] = {}

    def partitions(self, topic: str) -> int:
        return self._log.partitions(topic)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._position[topic, partition] = offset
        self._log_ids[topic] = self.log_id(topic), self.partitions(topic)

    def unseek(self, topic: str, partition: int) -> None:
        self._position.pop((topic, partition), None)

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        for topic, known in self._log_ids.items():
            if (self.log_id(topic), self.partitions(topic)) != known:
                raise LogReplaced(f"topic {topic} is not the one that was read; claim its partitions again")
        found: list[Record] = []
        for (topic, partition), sought in self._position.items():
            offset = max(sought, self._log.oldest.get((topic, partition), 0))
            if 0 < sought < offset:
                self._gaps.append(Gap(topic, partition, sought, offset))
                if not self._accept_gap:
                    raise InvalidData(f"deleted: {self._gaps[-1]}; --accept-gap")
            broken = self._log.broken.get((topic, partition))
            most = max_records - len(found)
            if broken is not None and offset <= broken.offset:
                most = min(most, broken.offset - offset)
            records, self._position[topic, partition] = self._log.read_up_to(topic, partition, offset, most)
            found += records
        return found

    def gaps(self) -> list[Gap]:
        passed, self._gaps = self._gaps, []
        return passed

    def unreadable(self) -> list[Unreadable]:
        return [
            broken for where, broken in self._log.broken.items() if self._position.get(where) == broken.offset
        ]

    def held_back(self) -> list[HeldBack]:
        return self._log.held_back

    def position(self, topic: str, partition: int) -> int:
        return self._position[topic, partition]

    def end_offset(self, topic: str, partition: int) -> int:
        return self._log.end_offset(topic, partition)

    def log_id(self, topic: str) -> str:
        return self._log.log_id(topic)

    def close(self) -> None:
        pass
