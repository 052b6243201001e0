"""The streams of changed items: one of each partition, and one of the catalogue."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.store.redis_client import redis_errors
from recsys.store.redis_cluster import ClusterClient

SEPARATOR = "\x1f"  # of ids in an entry: a control character, which no id may contain
_MAX_BLOCK_MS = 2_000  # well below the read timeout
_POLL_S = 0.05


def read_changes(
    client: Any, streams: Sequence[str], cursor: str, block_ms: int
) -> tuple[str, set[str] | None]:
    """As `FeatureStore.changed_items`. A cursor has the position in each stream, in this order.

    `client`: of `redis_client.connect`; `streams`: keys. `KEY:last` has the id of the stream's last entry.
    """
    with redis_errors():
        # none yet; or the store was empty, and has other parts now
        if cursor.count(",") + 1 != len(streams):
            return _now(client, streams), None if cursor else set()
        position = dict(zip(streams, cursor.split(","), strict=True))
        found = _entries(client, position, min(block_ms, _MAX_BLOCK_MS))
    changed: set[str] = set()
    complete = True
    for stream, entries in found.items():
        complete = complete and _order(entries[0][1][b"after"].decode()) <= _order(position[stream])
        position[stream] = entries[-1][0].decode()
        for _, fields in entries:
            changed.update(fields[b"items"].decode().split(SEPARATOR))
    return ",".join(position.values()), changed if complete else None


def _now(client: Any, streams: Sequence[str]) -> str:
    with client.pipeline(transaction=False) as pipe:
        for stream in streams:
            pipe.get(f"{stream}:last")
        return ",".join(last.decode() if last else "0-0" for last in pipe.execute())


def _entries(client: Any, position: Mapping[str, str], block_ms: int) -> dict[str, list[Any]]:
    """What follows the position in each stream; waits until something does, at most `block_ms`."""
    if not isinstance(client, ClusterClient):
        found = client.xread(position, block=block_ms or None)
        return {name.decode(): entries for name, entries in found or ()}
    until = time.monotonic() + block_ms / 1_000
    while True:  # a command waits for one slot alone
        with client.pipeline(transaction=False) as pipe:
            for stream, last in position.items():
                pipe.xrange(stream, f"({last}")
            new = {stream: e for stream, e in zip(position, pipe.execute(), strict=True) if e}
        if new or time.monotonic() >= until:
            return new
        time.sleep(_POLL_S)


def _order(stream_id: str) -> tuple[int, int]:
    """Stream ids are `milliseconds-number` and order by both."""
    ms, number = stream_id.split("-")
    return int(ms), int(number)
