"""From records of the log to batches that the store can apply, in offset order: events, or changes of items."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import msgspec

from recsys.errors import InvalidEvent
from recsys.event_log import Record, partition_of
from recsys.events import Event, parse_event
from recsys.impressions import impression_events, parse_impression
from recsys.item_changes import ItemChange, parse_item_change
from recsys.store.base import Batch, Checkpoint
from recsys.tracing import parent_of
from recsys.types import Topic
from streaming.lateness import TimeRules

_decode = msgspec.json.Decoder().decode
_partition_of = lru_cache(maxsize=1 << 17)(partition_of)


class Late(InvalidEvent):
    """Older than event ids are remembered."""


class Misrouted(InvalidEvent):
    """In a partition where nobody will look for its user or item."""


@dataclass(slots=True)
class Claim:
    """A topic partition that this worker writes: how far it is, with what is on its way to the store."""

    topic: str
    partition: int
    epoch: int
    position: int
    watermark_ms: int

    @classmethod
    def of(cls, topic: str, partition: int, stored: Checkpoint) -> "Claim":
        return cls(topic, partition, stored.epoch, stored.offset, stored.watermark_ms)

    def batch(self, previous: int, offsets: Sequence[int], events: Sequence[Event]) -> Batch:
        """What lies between `previous` and the position."""
        return Batch(
            topic=self.topic,
            partition=self.partition,
            epoch=self.epoch,
            previous=previous,
            next_offset=self.position,
            watermark_ms=self.watermark_ms,
            offsets=offsets,
            events=events,
        )


@dataclass(slots=True)
class Prepared:
    """A batch, the changes of items that go before it, and what became of the records that are not in it."""

    batch: Batch
    changes: Sequence[ItemChange] = ()
    refused: list[tuple[Record, InvalidEvent]] = field(default_factory=list)
    clamped: int = 0
    oldest_append_ms: int = 0
    parents: list[str] = field(default_factory=list)  # `traceparent`s that came with the records


class Preparer:
    """Parses records and cuts them into batches of about `max_events` events."""

    def __init__(self, partitions: int, rules: TimeRules, max_events: int = 100) -> None:
        self._partitions = partitions
        self._rules = rules
        self._max_events = max_events

    def batches(self, claim: Claim, records: Iterable[Record]) -> Iterator[Prepared]:
        """Consecutive records of the claimed partition as batches; moves the claim's position and watermark."""
        offsets: list[int] = []
        events: list[Event] = []
        changes: list[ItemChange] = []
        refused: list[tuple[Record, InvalidEvent]] = []
        previous, clamped, oldest = claim.position, 0, 0
        taken = 0
        parents: list[str] = []
        for record in records:
            if record.offset < claim.position:
                continue  # read before a seek
            try:
                if record.topic == Topic.ITEMS:
                    changes.append(self._change(record))
                else:
                    found, moved = self._events(record, claim.watermark_ms)
                    events += found
                    offsets += [record.offset] * len(found)
                    clamped += moved
                    claim.watermark_ms = max([claim.watermark_ms, *(e.event_time_ms for e in found)])
            except InvalidEvent as error:
                refused.append((record, error))
            claim.position = record.offset + 1
            taken += 1
            if record.headers and (parent := parent_of(record.headers)):
                parents.append(parent)
            oldest = oldest or record.append_time_ms
            if len(events) >= self._max_events or taken >= 4 * self._max_events:
                yield Prepared(
                    claim.batch(previous, offsets, events), changes, refused, clamped, oldest, parents
                )
                offsets, events, changes, refused, parents = [], [], [], [], []
                previous, clamped, oldest, taken = claim.position, 0, 0, 0
        if taken:
            yield Prepared(claim.batch(previous, offsets, events), changes, refused, clamped, oldest, parents)

    def _events(self, record: Record, watermark_ms: int) -> tuple[list[Event], int]:
        """The events of one record, and how many had their time clamped.

        Raises:
            InvalidEvent: nothing of the record may be applied; the message begins with the kind of fault.
        """
        events = _parse(record)
        clamped = 0
        for i, event in enumerate(events):
            if _partition_of(event.user_id, self._partitions) != record.partition:
                raise Misrouted(
                    f"misrouted: user {event.user_id} belongs into another partition; key records by user id"
                )
            time_ms = self._rules.clamped(event.event_time_ms, record.append_time_ms)
            if time_ms != event.event_time_ms:
                events[i] = replace(event, event_time_ms=time_ms)
                clamped += 1
            if self._rules.is_late(time_ms, watermark_ms):
                raise Late(f"late: by {watermark_ms - time_ms} ms, allowed are {self._rules.late_ms} ms")
        return events, clamped

    def _change(self, record: Record) -> ItemChange:
        """Raises `InvalidEvent`, as `_events`."""
        change = parse_item_change(_json(record))
        if _partition_of(change.item_id, self._partitions) != record.partition:
            raise Misrouted(
                f"misrouted: item {change.item_id} belongs into another partition; key records by item id"
            )
        return change


def _json(record: Record) -> Any:
    try:
        return _decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"json: {error}") from error


def _parse(record: Record) -> list[Event]:
    raw = _json(record)
    if record.topic == Topic.IMPRESSIONS:
        return impression_events(parse_impression(raw))
    return [parse_event(raw)]
