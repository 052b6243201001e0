"""A feature worker's report in the store, which the API shows: counts since the worker's start."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True):
    """freshness: upper bound in seconds → number of batches that took at most that long, from the log accepting their
        oldest record to its features being readable.
    problems: what a person has to do something about, such as a partition that stopped.
    alive_s: seconds since the worker's start. lag: unread records of its partitions; None: this log cannot tell.
    """

    at_ms: int
    alive_s: float
    applied: int
    duplicates: int
    dead_letters: int
    outages: int
    lag: int | None
    partitions: int
    freshness: dict[float, float]
    problems: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


def read_report(content: bytes) -> WorkerReport | None:
    """None: a worker of another version wrote it."""
    try:
        return msgspec.msgpack.decode(content, type=WorkerReport)
    except msgspec.DecodeError:
        return None
