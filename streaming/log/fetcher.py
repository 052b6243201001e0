"""Fetch from Kafka so that a batch that cannot be read stops its own partition, not the poll of all.

kafka-python raises such an error from `poll` without the partition's name, and then polls the iterator that failed
without end. Here the records of the partition end with a `Broken` in place of the next record, and those of the
other partitions come as ever.

A fetch waits longer the longer no record has come: a real broker answers as soon as one arrives, however long the wait;
the embedded one after half of it, and each fetch without records costs both sides processor time. For the same reason
partitions that have been silent are left out of most fetches, unless the broker remembers a client's partitions
(incremental fetch sessions, KIP-227), as a real one does: there they cost nothing.
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError

from streaming.log.inflation import check_inflation

_MAX_MAGIC = 2  # Kafka's record formats
# The embedded broker, after records have arrived. Less costs more than it gains: with 10, client and broker take twice
# the processor time, which requests and updates then wait for.
FETCH_WAIT_MS = 50
PATIENT_WAIT_MS = 500  # idle, client and broker use an eighth of the processor time that they use with 10
_OF_SILENCE = 0.02
_SILENT_S = 5.0  # a partition without records for so long is silent
_MOST_LEFT_OUT_S = 0.2


def wait_ms(silence_s: float, most_ms: int) -> int:
    """How long a fetch may wait when no record has come for `silence_s` seconds.

    >>> [wait_ms(silence_s, PATIENT_WAIT_MS) for silence_s in (0.0, 3.0, 60.0)]
    [50, 60, 500]
    """
    return int(min(max(silence_s * 1_000 * _OF_SILENCE, FETCH_WAIT_MS), most_ms))


@dataclass(frozen=True, slots=True)
class Broken:
    """No record, but why there is none: `batch` from `offset` to before `next_offset` cannot be read."""

    offset: int
    next_offset: int
    reason: str
    batch: bytes


class PartitionFetcher(Fetcher):  # type: ignore[misc]  # untyped
    most_wait_ms = FETCH_WAIT_MS
    _arrived = -math.inf  # when the latest records came

    # no `__init__` runs: a source gives its consumer's fetcher this class
    @cached_property
    def _heard(self) -> dict[Any, float]:
        """When each partition gave records last, or was asked first."""
        return {}

    @cached_property
    def _asked(self) -> dict[Any, float]:
        """When each partition was in a fetch last."""
        return {}

    def _create_fetch_requests(self) -> Any:
        now = time.monotonic()
        self.config["fetch_max_wait_ms"] = wait_ms(now - self._arrived, self.most_wait_ms)
        requests = super()._create_fetch_requests()
        for _, offsets in requests.values():
            self._asked.update(dict.fromkeys(offsets, now))
        return requests

    def _fetchable_partitions(self) -> Any:
        """Those that are due; all, when none is."""
        found = super()._fetchable_partitions()
        if any(session.next_metadata.session_id for session in self._session_handlers.values()):
            return found
        now = time.monotonic()
        return [where for where in found if self._due(where, now)] or found

    def _due(self, where: Any, now: float) -> bool:
        silence_s = now - self._heard.setdefault(where, now)
        left_out_s = now - self._asked.get(where, -math.inf)
        return silence_s < _SILENT_S or left_out_s >= min(silence_s * _OF_SILENCE, _MOST_LEFT_OUT_S)

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
            if self._subscriptions.is_assigned(where):
                self._subscriptions.assignment[where].highwater = data.high_watermark
        if found is not None:
            found.end = data.high_watermark
            if data.records:
                self._arrived = self._heard[where] = time.monotonic()
        return found

    class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
        end = 0  # the high watermark

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

    position: after the last record that was read. current: the bytes of the latest batch, whose further records have
    offsets from `least` to before `limit`.
    """

    def __init__(self, fetched: Any, records: Any) -> None:
        self._fetched = fetched
        self._records = records
        self.position = fetched.fetch_offset
        self.current = b""
        self.least = self.limit = 0

    def next_batch(self) -> Any:
        """Raises any error, here and when the batch is read: its bytes come from outside."""
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
        if not max(self.least, self.position) < self.limit <= self._fetched.end:
            raise CorruptRecordError(
                f"a batch says {self.least} to {self.limit}, where {self.position} was read"
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
