"""What only the broker in memory needs of its clients (Tansu; infra/local/memory_kafka.py lists its limits).

* It answers a fetch half of its wait after records have arrived, where Apache Kafka answers at once. So a fetch waits
  the longer the longer no record has come: each one without records costs both sides processor time.
* Each partition of a fetch costs it time, since it does not remember a client's partitions (KIP-227). So those that
  have been silent are left out of most fetches.
* It answers wrongly where a partition ends: the end is taken from a fetch.
"""

import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError, OffsetOutOfRangeError

from streaming.log.fetcher import BUSY_WAIT_MS, PATIENT_WAIT_MS, PartitionFetcher

CLUSTER_ID = "recsys-memory"  # by which clients know it
_OF_SILENCE = 0.02
_SILENT_S = 5.0  # a partition without records for so long is silent
_MOST_LEFT_OUT_S = 0.2
_END_WITHIN_S = 5.0


def is_memory_kafka(consumer: Any) -> bool:
    return bool(consumer._cluster.cluster_id == CLUSTER_ID)


class MemoryKafkaFetcher(PartitionFetcher):
    # idle, client and broker use an eighth of the processor time that they use with 10
    most_wait_ms = PATIENT_WAIT_MS

    def wait_ms(self, silence_s: float) -> int:
        return int(min(max(silence_s * 1_000 * _OF_SILENCE, BUSY_WAIT_MS), self.most_wait_ms))

    @cached_property
    def _heard(self) -> dict[Any, float]:
        """When each partition gave records last, or was asked first."""
        return {}

    @cached_property
    def _asked(self) -> dict[Any, float]:
        """When each partition was in a fetch last."""
        return {}

    def _create_fetch_requests(self) -> Any:
        requests, now = super()._create_fetch_requests(), time.monotonic()
        for _, offsets in requests.values():
            self._asked.update(dict.fromkeys(offsets, now))
        return requests

    def _fetchable_partitions(self) -> Any:
        """Those that are due; all, when none is."""
        found, now = super()._fetchable_partitions(), time.monotonic()
        return [where for where in found if self._due(where, now)] or found

    def _due(self, where: Any, now: float) -> bool:
        silence_s = now - self._heard.setdefault(where, now)
        left_out_s = now - self._asked.get(where, -math.inf)
        return silence_s < _SILENT_S or left_out_s >= min(silence_s * _OF_SILENCE, _MOST_LEFT_OUT_S)

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        found = super()._parse_fetched_data(completed_fetch)
        if found is not None and completed_fetch.partition_data.records:
            self._heard[completed_fetch.topic_partition] = time.monotonic()
        return found


class FetchedEnds:
    """Where partitions end, as fetches say."""

    def __init__(self, new_consumer: Callable[..., Any]) -> None:
        """`new_consumer`: called once, when the first end is asked for."""
        self._new_consumer = new_consumer
        self._known: dict[TopicPartition, int] = {}

    @cached_property
    def _consumer(self) -> Any:
        consumer = self._new_consumer(max_partition_fetch_bytes=16 * 1024)
        consumer._fetcher.most_wait_ms = BUSY_WAIT_MS
        return consumer

    def __call__(self, where: TopicPartition) -> int:
        """Raises `KafkaTimeoutError`: no fetch was answered."""
        consumer = self._consumer
        consumer.assign([])  # drops the end of an earlier call
        consumer.assign([where])
        consumer.seek(where, self._known.get(where, 0))
        deadline = time.monotonic() + _END_WITHIN_S
        while (end := consumer.highwater(where)) is None:
            if time.monotonic() > deadline:
                raise KafkaTimeoutError(f"{where.topic}/{where.partition} cannot be read")
            try:
                consumer.poll(timeout_ms=50, max_records=1)
            except OffsetOutOfRangeError:
                consumer.seek(where, consumer.beginning_offsets([where])[where])
        self._known[where] = end
        return int(end)
