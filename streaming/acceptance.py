"""Which records count, and at which event time. The feature worker and the archiver both ask here.

Every decision depends on the log alone (the append time, the earlier records of the partition), never on the
reader's clock, so a replay decides the same. Topics that this project creates carry the broker's append time. For
topics with the producer's time, `streaming.log.source` caps the append time at the time of reading.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from recsys.contracts.changes import ItemChange, UserChange, parse_item_change, parse_user_change
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import Record
from recsys.contracts.events import Event, parse_event, parse_id, parse_reported
from recsys.contracts.impression_record import read_impression
from recsys.contracts.impressions import Impression, impression_events
from recsys.contracts.merges import KEY_SEPARATOR, UserMerge, parse_user_merge
from recsys.contracts.plain_events import plain_event
from recsys.contracts.time_rules import TimeRules, clamped
from recsys.contracts.types import Topic
from streaming.log.dead_letter import UNREADABLE

# Header of records that `recsys stream replay` read from the lake: the archiver does not write them a second time.
REPLAY_HEADER = "replay"

_decode = msgspec.json.Decoder().decode


class Late(InvalidEvent):
    """The event is older than the window in which event ids are remembered."""


class Misrouted(InvalidEvent):
    """The key of a change is not the id of its item or user, or those of a merge: compaction would keep others than the
    latest."""


class Accepted(NamedTuple):
    """A record's events with corrected times, the number of corrected times, and the impression if it was one."""

    events: list[Event]
    clamped: int
    impression: Impression | None


def accept(record: Record, watermark_ms: int, rules: TimeRules) -> Accepted:
    """Parse and check a record of the topics `events` or `impressions`, whichever partition its user's key has: a
    producer may have another partitioner, or not know yet that there are more partitions.
    Raises `InvalidEvent`: nothing of the record may be applied; the message begins with the kind of fault."""
    impression = None
    if record.topic == Topic.IMPRESSIONS:
        impression = read_impression(_value(record))
        events = impression_events(impression)
    else:
        events = [plain_event(_value(record)) or _unusual_event(record)]
    moved = 0
    for i, event in enumerate(events):
        time_ms = rules.clamped(event.event_time_ms, record.append_time_ms)
        if time_ms != event.event_time_ms:
            events[i] = replace(event, event_time_ms=time_ms)
            moved += 1
        if rules.is_late(time_ms, watermark_ms):
            raise Late(f"late: by {watermark_ms - time_ms} ms, allowed are {rules.late_ms} ms")
    return Accepted(events, moved, impression)


def _unusual_event(record: Record) -> Event:
    raw = _json(record)
    is_ours = any(name == REPLAY_HEADER for name, _ in record.headers)
    return parse_event(raw) if is_ours else parse_reported(raw)


def accept_item_change(record: Record) -> ItemChange:
    """Parse and check a record of the topic `items`; a tombstone deletes. Raises as `accept` does."""
    if record.tombstone:
        return ItemChange(_deleted(record), None, record.append_time_ms)
    change = parse_item_change(_json(record))
    _check_key(record, "item", change.item_id)
    return replace(change, changed_ms=clamped(change.changed_ms, record.append_time_ms))


def accept_user_change(record: Record) -> UserChange | UserMerge | None:
    """Parse and check a record of the topic `users`; a tombstone deletes. None: the tombstone of a merge, whose ids
    are forgotten by themselves. Raises as `accept` does."""
    if record.tombstone:
        if KEY_SEPARATOR in record.key:
            return None
        return UserChange(_deleted(record), None, record.append_time_ms)
    raw = _json(record)
    if isinstance(raw, dict) and "merge" in raw:
        merge = parse_user_merge(raw)
        if record.key != merge.key:
            raise Misrouted(
                "misrouted: a merge has another key; key it by both ids, with U+001F between them"
            )
        return replace(merge, changed_ms=clamped(merge.changed_ms, record.append_time_ms))
    change = parse_user_change(raw)
    _check_key(record, "user", change.user_id)
    return replace(change, changed_ms=clamped(change.changed_ms, record.append_time_ms))


def _deleted(record: Record) -> str:
    return parse_id(record.key, "key of a record without a value")


def _check_key(record: Record, kind: str, key: str) -> None:
    if record.key != key:
        raise Misrouted(f"misrouted: {kind} {key} has another key; key records by the {kind} id in NFC")


def _value(record: Record) -> bytes:
    for name, value in record.headers:
        if name == UNREADABLE:  # stands for a batch that was skipped
            raise InvalidEvent(value.decode(errors="replace"))
    if record.tombstone:
        raise InvalidEvent("null: a record without a value deletes nothing here")
    return record.value


def _json(record: Record) -> Any:
    value = _value(record)
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deep
        raise InvalidEvent(f"json: {error}") from error
