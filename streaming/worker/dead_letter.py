"""Dead letters: refused records with their original bytes and the reason.

Headers say where the record came from and why it was refused. The key is `topic:partition:offset`, so a record that is
refused a second time after a crash is recognised as the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from recsys.contracts.event_log import EventSink, EventSource, Record
from recsys.contracts.types import Topic

REASON = "reason"
MAX_REASON_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    topic: str
    partition: int
    offset: int
    reason: str
    value: bytes
    append_time_ms: int

    @property
    def kind(self) -> str:
        """The reason's part before the colon, for counting."""
        return self.reason.split(":", 1)[0]


def send_dead_letter(sink: EventSink, record: Record, reason: str) -> None:
    """Queue one dead letter. Call `sink.flush` before storing a later offset, or a crash loses it.
    Raises `Unavailable`: the log does not accept it now."""
    origin = {"topic": record.topic, "partition": str(record.partition), "offset": str(record.offset)}
    headers = [(REASON, reason.encode()[:MAX_REASON_BYTES]), *((k, v.encode()) for k, v in origin.items())]
    sink.append(Topic.DEAD_LETTER, ":".join(origin.values()), record.value, headers)


def read_dead_letters(source: EventSource) -> Iterator[DeadLetter]:
    """Read every dead letter up to now, each once."""
    ends = {p: source.end_offset(Topic.DEAD_LETTER, p) for p in range(source.partitions(Topic.DEAD_LETTER))}
    for partition, end in ends.items():
        if end:
            source.seek(Topic.DEAD_LETTER, partition, 0)
    left = {partition for partition, end in ends.items() if end}
    seen: set[str] = set()
    while left:
        for record in source.poll(0.5, 1_000):
            if record.key not in seen:
                seen.add(record.key)
                yield _parse(record)
            if record.offset + 1 >= ends[record.partition]:
                left.discard(record.partition)


def _parse(record: Record) -> DeadLetter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return DeadLetter(
        topic=headers.get("topic", ""),
        partition=int(headers.get("partition", -1)),
        offset=int(headers.get("offset", -1)),
        reason=headers.get(REASON, ""),
        value=record.value,
        append_time_ms=record.append_time_ms,
    )
