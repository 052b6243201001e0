"""Fetch from Kafka so that a batch that cannot be read stops its own partition, not the poll of all.

kafka-python raises such an error from `poll` without the partition's name, and then polls the iterator that failed
without end. Here the records of the partition end with a `Broken` in place of the next record, and those of the
other partitions come as ever.

Readers get committed records only. What a producer took back, and the markers of transactions, take offsets but hold no
record; and a partition can be read up to the first record of its oldest open transaction (its last stable offset).
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError

from streaming.log.inflation import check_inflation

_MAX_MAGIC = 2  # Kafka's record formats
# A fetch has only the partitions whose records have all been read. While it waits for silent ones, the others wait for
# it: a broker is asked by one fetch at a time. Less costs more than it gains: with 10, client and broker in memory take
# twice the processor time, which requests and updates then wait for.
BUSY_WAIT_MS, _BUSY_S = 50, 1.0
PATIENT_WAIT_MS = 500


@dataclass(frozen=True, slots=True)
class Broken:
    """No record, but why there is none: `batch` from `offset` to before `next_offset` cannot be read."""

    offset: int
    next_offset: int
    reason: str
    batch: bytes


class Stable(NamedTuple):
    """How far a partition can be read, of how much there is. since: when that was first less (monotonic)."""

    offset: int
    end: int
    since: float

    @property
    def held_back(self) -> int:
        """The number of records behind an open transaction, its own included."""
        return self.end - self.offset


class PartitionFetcher(Fetcher):  # type: ignore[misc]  # untyped
    _arrived = -math.inf  # when the latest records came

    def wait_ms(self, silence_s: float) -> int:
        """How long a fetch may wait when no record has come for `silence_s` seconds."""
        return BUSY_WAIT_MS if silence_s < _BUSY_S else PATIENT_WAIT_MS

    def _create_fetch_requests(self) -> Any:
        self.config["fetch_max_wait_ms"] = self.wait_ms(time.monotonic() - self._arrived)
        return super()._create_fetch_requests()

    @cached_property  # no `__init__` runs: a source gives its consumer's fetcher this class
    def stable(self) -> dict[Any, Stable]:
        """By partition, as the latest fetch said."""
        return {}

    @cached_property
    def beyond(self) -> dict[Any, int]:
        """By partition, where the latest batch began that was beyond the end that its fetch named."""
        return {}

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        data, where = completed_fetch.partition_data, completed_fetch.topic_partition
        try:
            if data.error_code == CorruptRecordError.errno:  # the client would ask again without a word
                raise CorruptRecordError("the broker cannot read its own log")
            found = super()._parse_fetched_data(completed_fetch)
        except OffsetOutOfRangeError:
            raise
        except Exception as error:  # any: bytes from outside
            found = self.PartitionRecords(completed_fetch.fetched_offset, where, _Failed(error, data.records))
            if self._subscriptions.is_assigned(where) and data.high_watermark >= 0:
                self._subscriptions.assignment[where].highwater = data.high_watermark
        if found is not None:
            if data.records:
                self._arrived = time.monotonic()
            else:  # another leader may not know yet that the batch ahead is there
                self.beyond.pop(where, None)
            found.end, found.beyond = data.high_watermark, self.beyond
            if data.high_watermark >= 0:  # an error comes without
                self._note_stable(where, data)
        return found

    def _note_stable(self, where: Any, data: Any) -> None:
        offset = data.last_stable_offset if data.last_stable_offset >= 0 else data.high_watermark
        known, since = self.stable.get(where), time.monotonic()
        if known is not None and known.offset == offset and known.held_back:
            since = known.since
        self.stable[where] = Stable(offset, data.high_watermark, since)

    class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
        end = 0  # the high watermark
        beyond: dict[Any, int]  # the fetcher's

        def may_be_ahead(self, position: int) -> bool:
            """A broker reads its high watermark before the records: those that come meanwhile are beyond it, and are
            within that of the next fetch. So a batch may be beyond the end once, at each position."""
            before = self.beyond.get(self.topic_partition)
            self.beyond[self.topic_partition] = position
            return before != position

        def _contains_abort_marker(self, batch: Any) -> bool:
            """Compaction empties markers that are no longer needed, of producers that it still remembers: those end
            nothing. kafka-python looks for the record that says whether they do."""
            return bool(batch.records_count) and super()._contains_abort_marker(batch)

        def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
            """The records, and last a `Broken` where they cannot be read any further."""
            batches = _Batches(self, records)
            try:
                for record in super()._unpack_records(tp, batches, *deserializers):
                    if not batches.least <= record.offset < batches.limit:
                        raise CorruptRecordError(f"a record of the batch says that it is at {record.offset}")
                    batches.least = record.offset + 1
                    batches.position = max(batches.position, batches.least)
                    yield record
            except Exception as error:  # any: bytes from outside
                offset = self.next_fetch_offset = batches.position
                self.drain()
                whole = offset < batches.limit <= self.end
                next_offset = batches.limit if whole else offset + 1
                reason = str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
                yield Broken(offset, next_offset, reason, batches.current)


class _Batches:
    """The batches of one fetch, with checks that the client leaves out.

    position: after the last record, or whole batch, that was read. current: the bytes of the latest batch, whose
    further records have offsets from `least` to before `limit`.
    """

    def __init__(self, fetched: Any, records: Any) -> None:
        self._fetched = fetched
        self._records = records
        self.position = fetched.fetch_offset
        self.current = b""
        self.least = self.limit = 0

    def next_batch(self) -> Any:
        """Raises any error, here and when the batch is read: its bytes come from outside."""
        if self.limit < sys.maxsize:  # the batch before is finished, and all of it may have been skipped
            self.position = max(self.position, self.limit)
        self.current = bytes(self._records._next_slice or b"")
        batch = self._records.next_batch()
        if batch is None:
            return None
        if 0 <= batch.magic < _MAX_MAGIC:  # its header does not say where it ends
            self.least, self.limit = 0, sys.maxsize
            return batch
        self.least, self.limit = batch.base_offset, batch.next_offset
        if batch.magic != _MAX_MAGIC:
            raise CorruptRecordError(f"record format {batch.magic} is unknown")
        if (
            self.limit > self._fetched.end
            and batch.validate_crc()
            and self._fetched.may_be_ahead(self.position)
        ):
            return None
        if not max(self.least, self.position) < self.limit <= self._fetched.end:
            raise CorruptRecordError(
                f"a batch says {self.least} to {self.limit}, where {self.position} was read of {self._fetched.end}"
            )
        if batch.compression_type and batch.validate_crc():
            check_inflation(batch.compression_type, self.current[batch.HEADER_STRUCT.size :])
        return batch


class _Failed:
    """Instead of the batches of a fetch that failed as a whole."""

    def __init__(self, error: Exception, content: Any) -> None:
        self._error = error
        self._next_slice = content

    def next_batch(self) -> Any:
        raise self._error
