"""The size of a batch's content, found without holding it: a megabyte of zstd may stand for many gigabytes of zeros."""

import gzip
from io import BytesIO
from typing import Any, Final

import lz4.frame
import zstandard
from kafka.errors import CorruptRecordError

MAX_BYTES: Final = 64 << 20  # a hundred times what a producer puts into a batch by default, and more
_CHUNK = 1 << 16


def _zstd(file: BytesIO) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


# by Kafka's number; snappy (2) bounds its own output to some twenty times its input
_READERS = {1: lambda file: gzip.GzipFile(fileobj=file), 3: lz4.frame.LZ4FrameFile, 4: _zstd}


def check_inflation(codec: int, content: bytes) -> None:
    """Raises `CorruptRecordError`: more than `MAX_BYTES`; any error of the codec."""
    if codec not in _READERS:
        return
    size = 0
    with _READERS[codec](BytesIO(content)) as reader:
        while chunk := reader.read(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise CorruptRecordError(f"a batch inflates to more than {MAX_BYTES >> 20} MiB")
