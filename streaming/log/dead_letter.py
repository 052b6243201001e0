"""Dead letters: refused records with their original bytes and the reason.

Headers say where the record came from and why it was refused. The key is `topic:partition:offset`, so a record that is
refused a second time after a crash is recognised as the same.

A batch that nobody can read goes there when an operator skips it (`skip`). The letter is then the order, too: each
reader that comes to the batch, today's or one of a later rebuild, finds it (`streaming.log.stops`) and takes the whole
batch for one refused record.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.contracts.event_log import EventSink, EventSource, Record, Unreadable
from recsys.contracts.types import Topic
from streaming.log.sink import MAX_RECORD_BYTES

REASON = "reason"
UNREADABLE = "unreadable"  # the kind of reason of a skipped batch
LOG_ID, FIRST, NEXT = "log-id", "first-offset", "next-offset"  # of an order to skip
MAX_REASON_BYTES = 1_000
_MAX_VALUE_BYTES = MAX_RECORD_BYTES - 10_000  # a foreign record may be larger than ours


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


def send_dead_letter(
    sink: EventSink, record: Record, reason: str, order: Sequence[tuple[str, bytes]] = ()
) -> None:
    """Queue one dead letter. Call `sink.flush` before storing a later offset, or a crash loses it.
    Raises `Unavailable`: the log does not accept it now."""
    origin = {"topic": record.topic, "partition": str(record.partition), "offset": str(record.offset)}
    value = record.value[:_MAX_VALUE_BYTES]
    if len(value) < len(record.value):
        reason = f"{reason[: MAX_REASON_BYTES // 2]} (cut from {len(record.value)} bytes)"
    headers = [(REASON, reason.encode(errors="replace")[:MAX_REASON_BYTES])]
    headers += [*((name, text.encode()) for name, text in origin.items()), *order]
    sink.append(Topic.DEAD_LETTER, ":".join(origin.values()), value, headers)


def skip(sink: EventSink, log_id: str, found: Unreadable) -> None:
    """Order every reader to continue after the batch, and keep its bytes. `log_id`: of its topic.
    Raises `Unavailable`: the log did not acknowledge it."""
    batch = Record(found.topic, found.partition, found.next_offset - 1, "", found.batch)
    order = {LOG_ID: log_id, FIRST: str(found.offset), NEXT: str(found.next_offset)}
    reason = f"{UNREADABLE}: from offset {found.offset}: {found.reason}"
    send_dead_letter(sink, batch, reason, tuple((name, text.encode()) for name, text in order.items()))
    sink.flush()


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
        left = {p for p in left if source.position(Topic.DEAD_LETTER, p) < ends[p]}
        left -= {stopped.partition for stopped in source.unreadable()}


def _parse(record: Record) -> DeadLetter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return DeadLetter(
        topic=headers.get("topic", ""),
        partition=number(headers.get("partition", "")),
        offset=number(headers.get("offset", "")),
        reason=headers.get(REASON, ""),
        value=record.value,
        append_time_ms=record.append_time_ms,
    )


def number(text: str) -> int:
    """-1: none; the topic is open to any producer."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
