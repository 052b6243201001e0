"""From records of the log to batches that the store can apply, in offset order: events, or changes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import Record, remembered_partition_of
from recsys.contracts.events import Event, parse_event
from recsys.contracts.impressions import Impression, impression_events, parse_impression
from recsys.contracts.item_changes import ItemChange, parse_item_change
from recsys.contracts.types import Topic
from recsys.contracts.user_changes import UserChange, parse_user_change
from recsys.observability.tracing import parent_of
from recsys.store.base import Batch, Checkpoint
from streaming.worker.lateness import TimeRules

_decode = msgspec.json.Decoder().decode


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
    """A batch, the changes of items and users that go before it, and what became of the records that are not in it."""

    batch: Batch
    items: Sequence[ItemChange] = ()
    users: Sequence[UserChange] = ()
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
        items: list[ItemChange] = []
        users: list[UserChange] = []
        refused: list[tuple[Record, InvalidEvent]] = []
        previous, clamped, oldest = claim.position, 0, 0
        taken = 0
        parents: list[str] = []
        for record in records:
            if record.offset < claim.position:
                continue  # read before a seek
            try:
                if record.topic == Topic.ITEMS:
                    items.append(accept_item_change(record, self._partitions))
                elif record.topic == Topic.USERS:
                    users.append(accept_user_change(record, self._partitions))
                else:
                    found, moved, _ = accept(record, claim.watermark_ms, self._partitions, self._rules)
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
                batch = claim.batch(previous, offsets, events)
                yield Prepared(batch, items, users, refused, clamped, oldest, parents)
                offsets, events, items, users, refused, parents = [], [], [], [], [], []
                previous, clamped, oldest, taken = claim.position, 0, 0, 0
        if taken:
            batch = claim.batch(previous, offsets, events)
            yield Prepared(batch, items, users, refused, clamped, oldest, parents)


class Accepted(NamedTuple):
    """The events of one record with the times that count, how many of them were moved, and the list as shown."""

    events: list[Event]
    clamped: int
    impression: Impression | None


def accept(record: Record, watermark_ms: int, partitions: int, rules: TimeRules) -> Accepted:
    """What of a record counts, decided by the log alone: the worker and the archiver decide the same.

    Raises:
        InvalidEvent: nothing of the record may be applied; the message begins with the kind of fault.
    """
    events, impression = _parse(record)
    clamped = 0
    for i, event in enumerate(events):
        _check_place(record, "user", event.user_id, partitions)
        time_ms = rules.clamped(event.event_time_ms, record.append_time_ms)
        if time_ms != event.event_time_ms:
            events[i] = replace(event, event_time_ms=time_ms)
            clamped += 1
        if rules.is_late(time_ms, watermark_ms):
            raise Late(f"late: by {watermark_ms - time_ms} ms, allowed are {rules.late_ms} ms")
    return Accepted(events, clamped, impression)


def accept_item_change(record: Record, partitions: int) -> ItemChange:
    """The same for a record of the topic `items`."""
    change = parse_item_change(_json(record))
    _check_place(record, "item", change.item_id, partitions)
    return change


def accept_user_change(record: Record, partitions: int) -> UserChange:
    """The same for a record of the topic `users`."""
    change = parse_user_change(_json(record))
    _check_place(record, "user", change.user_id, partitions)
    return change


def _check_place(record: Record, kind: str, key: str, partitions: int) -> None:
    if remembered_partition_of(key, partitions) != record.partition:
        raise Misrouted(f"misrouted: {kind} {key} belongs into another partition; key records by {kind} id")


def _json(record: Record) -> Any:
    try:
        return _decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deep
        raise InvalidEvent(f"json: {error}") from error


def _parse(record: Record) -> tuple[list[Event], Impression | None]:
    raw = _json(record)
    if record.topic == Topic.IMPRESSIONS:
        impression = parse_impression(raw)
        return impression_events(impression), impression
    return [parse_event(raw)], None
