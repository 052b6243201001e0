"""What a feature worker says of itself in the store, and the API shows: counts since the worker's start."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True):
    """`freshness`: upper bound in seconds → how many batches took at most so long, from the log taking their oldest
    record to its features being readable.
    `alive_s`: seconds since its start, that is how long it has counted.
    `lag`: records of its partitions that it has not read yet; None: this log cannot be asked."""

    at_ms: int
    alive_s: float
    applied: int
    duplicates: int
    dead_letters: int
    outages: int
    lag: int | None
    partitions: int
    freshness: dict[float, float]

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


def read_report(content: bytes) -> WorkerReport | None:
    """None: it was written by a worker of another version."""
    try:
        return msgspec.msgpack.decode(content, type=WorkerReport)
    except msgspec.DecodeError:
        return None
