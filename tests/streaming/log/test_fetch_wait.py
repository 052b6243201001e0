"""A fetch of silent partitions must not keep those waiting that have records."""

from streaming.log.fetcher import BUSY_WAIT_MS, PATIENT_WAIT_MS, PartitionFetcher
from streaming.log.memory_kafka import MemoryKafkaFetcher


def test_fetches_wait_shortly_while_records_arrive_and_long_in_silence() -> None:
    apache, memory = (kind.__new__(kind) for kind in (PartitionFetcher, MemoryKafkaFetcher))
    assert [apache.wait_ms(s) for s in (0.0, 0.9, 1.1, float("inf"))] == [BUSY_WAIT_MS] * 2 + [
        PATIENT_WAIT_MS
    ] * 2
    assert [memory.wait_ms(s) for s in (0.0, 3.0, float("inf"))] == [50, 60, PATIENT_WAIT_MS]
