"""Batches as a foreign, old or broken producer writes them: any codec, any damage, straight into a partition."""

import time
from collections.abc import Callable, Sequence
from enum import IntEnum

from kafka import codec as codecs
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from recsys.contracts.errors import Unavailable
from recsys.kafka_connection import KafkaConnection
from streaming.log.topics import connect

_LENGTH = slice(8, 12)
_MAGIC, _CHECKSUM, _CHECKED, _CONTENT = 16, slice(17, 21), 21, 61  # places in a batch of format 2
_ATTRIBUTES, _PRODUCER_ID, _COUNT = 22, slice(43, 51), 57
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_Topic = ProduceRequest.TopicProduceData
_VERSION = 8  # the newest that needs no topic id


class Codec(IntEnum):
    """Kafka's numbers."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def batch(
    key: str, values: Sequence[bytes | None], codec: Codec = Codec.NONE, base_offset: int = 0
) -> bytearray:
    """One batch of records, in Kafka's format 2. None: a record without a value."""
    builder = MemoryRecordsBuilder(2, codec, 1 << 20, offset=base_offset)
    for value in values:
        builder.append(time.time_ns() // 1_000_000, key.encode(), value)
    builder.close()
    return bytearray(builder.buffer())


def emptied_marker(offset: int) -> bytearray:
    """The marker of a transaction as compaction leaves it: a batch of control, without a record."""
    raw = batch("", [b""], base_offset=offset)
    raw[_ATTRIBUTES] = _TRANSACTIONAL | _CONTROL
    raw[_PRODUCER_ID] = (7).to_bytes(8, "big")
    raw[_COUNT:] = bytes(_CONTENT - _COUNT)
    return _sealed(raw)


def bad_checksum(raw: bytearray) -> bytearray:
    raw[-1] ^= 1
    return raw


def bad_content(raw: bytearray) -> bytearray:
    """Content that does not decompress, or has no records, under a good checksum."""
    raw[_CONTENT:] = b"\xff" * (len(raw) - _CONTENT)
    return _sealed(raw)


def bomb(codec: Codec) -> bytearray:
    """A small batch that says it holds one record, of 96 MiB of zeros."""
    raw = batch("k", [b" " * 1_000], codec)
    zeros = bytes(96 << 20)
    compress = {Codec.GZIP: codecs.gzip_encode, Codec.LZ4: codecs.lz4_encode, Codec.ZSTD: codecs.zstd_encode}
    raw[_CONTENT:] = compress[codec](zeros)
    return _sealed(raw)


def unknown_format(raw: bytearray) -> bytearray:
    raw[_MAGIC] = 9
    return raw


def _sealed(raw: bytearray) -> bytearray:
    """With the right length and checksum."""
    raw[_LENGTH] = (len(raw) - _LENGTH.stop).to_bytes(4, "big")
    raw[_CHECKSUM] = calc_crc32c(memoryview(raw)[_CHECKED:]).to_bytes(4, "big")
    return raw


DAMAGES: tuple[Callable[[bytearray], bytearray], ...] = (bad_checksum, bad_content, unknown_format)


def append_batch(kafka: KafkaConnection, topic: str, partition: int, raw: bytes | bytearray) -> int:
    """Append bytes as they are; returns the offset of the first record. Apache Kafka refuses damaged ones, the embedded
    broker takes them.
    Raises `Unavailable`: the broker refused them."""
    content = _Topic(
        name=kafka.in_kafka(topic),
        partition_data=[_Topic.PartitionProduceData(index=partition, records=bytes(raw))],
    )
    request = ProduceRequest(
        transactional_id=None, acks=-1, timeout_ms=5_000, topic_data=[content], max_version=_VERSION
    )
    with connect(kafka) as admin:
        response = admin._manager.run(admin._manager.send, request)
    (answer,) = response.responses[0].partition_responses
    if answer.error_code:
        raise Unavailable(f"the broker refused the batch with error {answer.error_code}")
    return int(answer.base_offset)
