"""Which partitions are asked for, and how long a fetch waits, where the broker is the one in memory."""

import math

import pytest
from kafka import TopicPartition

from infra.evaluation.fault_injection.foreign_batches import batch
from streaming.log.memory_kafka import MemoryKafkaFetcher
from tests.streaming.log.test_fetcher import DAMAGED, HEALTHY, VALUES, fetch, new_fetcher


def test_only_records_end_a_silence() -> None:
    """The broker in memory answers each fetch within its wait, with records or without."""
    fetcher = new_fetcher(MemoryKafkaFetcher)
    fetcher._parse_fetched_data(fetch(HEALTHY, b"", 0))
    assert fetcher._arrived == -math.inf
    fetcher._parse_fetched_data(fetch(HEALTHY, bytes(batch("k", VALUES)), len(VALUES)))
    assert fetcher._arrived > 0


class _Fetches:
    """A fetcher whose clock stands; `ask` gives the partitions of the next fetch, as if it were sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr("streaming.log.memory_kafka.time.monotonic", lambda: self.now)
        self.fetcher = new_fetcher(MemoryKafkaFetcher)

    def ask(self) -> set[TopicPartition]:
        found = set(self.fetcher._fetchable_partitions())
        self.fetcher._asked.update(dict.fromkeys(found, self.now))
        return found

    def hear(self, where: TopicPartition) -> None:
        self.fetcher._parse_fetched_data(fetch(where, bytes(batch("k", VALUES)), 3))


def test_a_silent_partition_is_left_out_of_most_fetches_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetches = _Fetches(monkeypatch)
    assert fetches.ask() == {HEALTHY, DAMAGED}
    asked = []
    for _ in range(400):  # 20 seconds with records of one partition
        fetches.now += 0.05
        fetches.hear(HEALTHY)
        asked.append(fetches.ask())
    assert all(HEALTHY in found for found in asked)
    assert asked[:99] == [{HEALTHY, DAMAGED}] * 99  # not silent yet
    late = [DAMAGED in found for found in asked[200:]]
    assert 40 <= sum(late) <= 70
    assert all(any(late[i : i + 5]) for i in range(len(late) - 5))  # every fifth of a second at the least
    fetches.hear(DAMAGED)
    fetches.now += 0.05
    assert fetches.ask() == {HEALTHY, DAMAGED}


def test_when_all_are_silent_all_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    fetches = _Fetches(monkeypatch)
    for _ in range(400):
        fetches.now += 0.1
        assert fetches.ask() == {HEALTHY, DAMAGED}
