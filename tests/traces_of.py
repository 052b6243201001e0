"""Where a text is: what forgetting a user must leave nowhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys.store.redis_client import connect


def files_with(home: Path, text: str) -> list[str]:
    """Files below a folder that have it in their path or bytes, Parquet in any of its values."""
    return [
        str(p.relative_to(home)) for p in sorted(home.rglob("*")) if any(text in t for t in _texts(home, p))
    ]


def _texts(home: Path, path: Path) -> Iterator[str]:
    yield str(path.relative_to(home))
    if path.is_file():
        yield path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":  # compressed
            yield str(pq.read_table(path, partitioning=None).to_pylist())


def keys_with(redis_url: str, text: str) -> list[str]:
    """Keys of Redis that have it in their name or anything of their value."""
    with connect(redis_url) as redis:
        return sorted(str(key) for key in redis.scan_iter() if text.encode() in key + _value(redis, key))


def _value(redis: Any, key: bytes) -> bytes:
    read = {
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"string": redis.get,
        b"zset": lambda k: redis.zrange(k, 0, -1),
        b"stream": redis.xrange,
        b"list": lambda k: redis.lrange(k, 0, -1),
        b"none": lambda k: b"",  # expired since
    }
    return str(read[redis.type(key)](key)).encode()
