"""Batches that cannot be read: no bytes keep `fetched_records` busy, lose a record, or touch another partition."""

import tracemalloc
from collections.abc import Iterator
from typing import Any, TypeVar
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import CompletedFetch
from kafka.consumer.subscription_state import SubscriptionState
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import FetchResponse
from kafka.record.default_records import DefaultRecordBatchBuilder

from infra.evaluation.fault_injection.foreign_batches import Codec, bad_content, batch, bomb, emptied_marker
from streaming.log.fetcher import Broken, PartitionFetcher

F = TypeVar("F", bound=PartitionFetcher)
HEALTHY, DAMAGED = TopicPartition("t", 0), TopicPartition("t", 1)
VALUES = [b"a" * 40, b"b" * 40, b"c" * 40]
_Partition = FetchResponse.FetchableTopicResponse.PartitionData


def fetch(where: TopicPartition, content: bytes, end: int, error: int = 0) -> CompletedFetch:
    data = _Partition(
        partition_index=where.partition, error_code=error, high_watermark=end, records=content,
        aborted_transactions=None, version=11,
    )  # fmt: skip
    return CompletedFetch(where, 0, 11, data, None)


def new_fetcher(kind: type[F]) -> F:
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([HEALTHY, DAMAGED])
    for where in (HEALTHY, DAMAGED):
        subscriptions.seek(where, 0)
    return kind(MagicMock(), subscriptions, isolation_level="read_committed")


def read(content: bytes | bytearray, end: int, error: int = 0) -> tuple[list[bytes], Broken | None, int]:
    """The values of the damaged partition, what stopped it, and where it is then; the healthy one is checked."""
    fetcher = new_fetcher(PartitionFetcher)
    fetcher._completed_fetches.append(fetch(DAMAGED, bytes(content), end, error))
    fetcher._completed_fetches.append(fetch(HEALTHY, bytes(batch("k", VALUES)), 3))
    found: dict[TopicPartition, list[Any]] = {HEALTHY: [], DAMAGED: []}
    for _ in range(3):
        for where, records in fetcher.fetched_records(max_records=2_000)[0].items():
            found[where] += records
    assert [r.value for r in found[HEALTHY]] == VALUES
    stopped = found[DAMAGED].pop() if found[DAMAGED] and isinstance(found[DAMAGED][-1], Broken) else None
    position = fetcher._subscriptions.position(DAMAGED).offset
    return [r.value for r in found[DAMAGED]], stopped, position


def three_batches(codec: Codec) -> Iterator[bytearray]:
    return (batch("k", VALUES, codec, base_offset) for base_offset in (0, 3, 6))


def test_every_codec_of_kafka_is_read() -> None:
    for codec in Codec:
        values, stopped, position = read(b"".join(three_batches(codec)), 9)
        assert (values, stopped, position) == (VALUES * 3, None, 9), codec


def test_a_broken_batch_stops_behind_the_records_before_it() -> None:
    for codec in Codec:
        first, second, third = three_batches(codec)
        values, stopped, position = read(first + bad_content(second) + third, 9)
        assert values == VALUES and stopped is not None, codec
        assert (stopped.offset, stopped.next_offset, position) == (3, 6, 3)
        assert stopped.batch == second


def test_a_batch_beyond_the_end_of_its_fetch_is_read_by_the_next_one() -> None:
    """Apache Kafka reads a partition's end before its records: those that come meanwhile are no damage."""
    fetcher, content = new_fetcher(PartitionFetcher), b"".join(three_batches(Codec.NONE))
    for end, expected in (
        (5, VALUES),
        (9, VALUES * 3),
    ):  # once in the middle of a fetch, once at its beginning
        for first_end in (0, end):
            fetcher._completed_fetches.append(fetch(DAMAGED, content, first_end))
            found = fetcher.fetched_records(max_records=2_000)[0].get(DAMAGED, [])
            position = fetcher._subscriptions.position(DAMAGED).offset
            assert [r.value for r in found] == (expected if first_end else []) and position == len(found)
        fetcher._subscriptions.seek(DAMAGED, 0)


def test_a_batch_may_be_ahead_again_behind_another_leader() -> None:
    fetcher, content = new_fetcher(PartitionFetcher), bytes(batch("k", VALUES))
    for received in (content, b"", content):
        fetcher._completed_fetches.append(fetch(DAMAGED, received, 0))
        assert not fetcher.fetched_records(max_records=2_000)[0]


def test_a_batch_that_stays_beyond_the_end_stops_its_partition() -> None:
    fetcher, content = new_fetcher(PartitionFetcher), bytes(batch("k", VALUES, base_offset=3))
    found = []
    for _ in range(3):
        fetcher._completed_fetches.append(fetch(DAMAGED, content, 3))
        found.append(fetcher.fetched_records(max_records=2_000)[0].get(DAMAGED, []))
    assert found[0] == [] and [type(stop) for (stop,) in found[1:]] == [Broken, Broken]
    assert fetcher._subscriptions.position(DAMAGED).offset == 0


def test_a_broken_batch_behind_what_was_taken_back_stops_at_its_own_offset() -> None:
    aborted = DefaultRecordBatchBuilder(
        2, 0, is_transactional=True, producer_id=7, producer_epoch=0, base_sequence=0, batch_size=1_000
    )
    for offset, value in enumerate(VALUES):
        aborted.append(offset, 1, b"k", value, [])
    fetcher = new_fetcher(PartitionFetcher)
    completed = fetch(DAMAGED, bytes(aborted.build() + bad_content(batch("k", VALUES, base_offset=3))), 6)
    completed.partition_data.aborted_transactions = [_Partition.AbortedTransaction(7, 0)]
    fetcher._completed_fetches.append(completed)
    (stopped,) = fetcher.fetched_records(max_records=2_000)[0][DAMAGED]
    assert (stopped.offset, stopped.next_offset) == (3, 6)


def test_a_marker_that_compaction_has_emptied_is_passed() -> None:
    content = emptied_marker(2) + batch("k", VALUES, base_offset=3) + emptied_marker(6)
    assert read(content, 7) == (VALUES, None, 7)


def test_a_batch_that_inflates_without_end_is_not_read_into_memory() -> None:
    for codec in (Codec.GZIP, Codec.LZ4, Codec.ZSTD):
        raw = bomb(codec)
        tracemalloc.start()
        values, stopped, _ = read(raw, 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert values == [] and stopped is not None and "inflates to more than 64 MiB" in stopped.reason
        assert peak < 20 << 20, codec


def test_an_error_of_the_broker_is_of_its_partition() -> None:
    for error in (-1, CorruptRecordError.errno):
        values, stopped, position = read(b"", 9, error)
        assert values == [] and stopped is not None
        assert (stopped.offset, stopped.next_offset, position) == (0, 1, 0)


def test_an_error_of_the_broker_does_not_say_where_its_partition_ends() -> None:
    fetcher = new_fetcher(PartitionFetcher)
    for content, end, error in ((bytes(batch("k", VALUES)), 9, 0), (b"", -1, CorruptRecordError.errno)):
        completed = fetch(DAMAGED, content, end, error)
        completed.partition_data.last_stable_offset = end
        fetcher._parse_fetched_data(completed)
        assert (fetcher.stable[DAMAGED].offset, fetcher.stable[DAMAGED].end) == (9, 9)
        assert fetcher._subscriptions.assignment[DAMAGED].highwater == 9


@settings(max_examples=100, deadline=None)
@given(
    codec=st.sampled_from(Codec),
    damages=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4
    ),
    cut=st.none() | st.integers(0, 10_000),
)
def test_flipped_bits_and_cuts_lose_no_record(
    codec: Codec, damages: list[tuple[int, int, int]], cut: int | None
) -> None:
    """What is read is a prefix of what was written, and the position is right behind it. (Nothing checks a batch's base
    offset, its first eight bytes: the broker writes it.)"""
    batches = list(three_batches(codec))
    for number, place, bits in damages:
        batches[number][8 + place % (len(batches[number]) - 8)] ^= bits
    content = bytearray().join(batches)
    whole = 9
    if cut is not None:
        del content[cut % len(content) :]
    values, stopped, position = read(bytes(content), whole)
    assert values == (VALUES * 3)[: len(values)]
    assert position == len(values)
    assert stopped is None or position == stopped.offset < stopped.next_offset <= whole


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), end=st.integers(0, 10))
def test_random_bytes_are_no_records(content: bytes, end: int) -> None:
    values, stopped, position = read(content, end)
    assert values == [] and position == 0
    assert (stopped is None) == (not content)


def test_a_partition_is_held_back_from_when_it_can_be_read_less_far_than_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetcher, seen = new_fetcher(PartitionFetcher), []
    for now, stable, end in ((1.0, 4, 4), (2.0, 4, 6), (3.0, 4, 7), (4.0, 7, 8), (5.0, 8, 8)):
        monkeypatch.setattr("streaming.log.fetcher.time.monotonic", lambda now=now: now)
        completed = fetch(HEALTHY, b"", end)
        completed.partition_data.last_stable_offset = stable
        fetcher._parse_fetched_data(completed)
        found = fetcher.stable[HEALTHY]
        seen.append((found.held_back, found.since))
    assert seen == [(0, 1.0), (2, 2.0), (3, 2.0), (1, 4.0), (0, 5.0)]
