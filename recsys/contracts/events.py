"""The event: the one schema of everything a user does.

The Kafka JSON, the lake's Arrow schema, Spark's `StructType` and the HTTP models follow from the fields of `Event` or
are tested equal to them. This module needs only the standard library, so Spark executors and the feature worker load
no more.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.text import CATEGORY_SEPARATOR, free_text, id_text
from recsys.contracts.types import MIN_STARS, MS_PER_DAY, EventType

SCHEMA_VERSION = 1
MAX_CONTEXT_ENTRIES = 32
MAX_CONTEXT_LENGTH = 512  # of a key and its text together
MAX_POSITION = 999_999
# 2100-01-01: later than that is a unit error (microseconds sent as milliseconds).
MAX_TIME_MS = 4_102_444_800_000

# What identifies an event. Its `event_id` is unique per user only: nobody can hide another user's event with an id.
EVENT_KEY = ("user_id", "event_id")

# Values are from 0 to this, by type: milliseconds of a day, stars of any common scale, prices.
MOST_VALUE = 1e12
MOST_VALUES: Mapping[EventType, float] = {
    EventType.DWELL: MS_PER_DAY,
    EventType.RATING: 100.0,
    EventType.DISLIKE: 100.0,
}

# Context keys that the platform itself reads; all others are passed on unread.
CATEGORIES = "categories"  # the item's categories at the time of the event, joined by "|"
CREATOR = "creator"  # the item's creator


_READ_KEYS = (CATEGORIES, CREATOR)


@dataclass(frozen=True, slots=True)
class Event:
    """One action of one user on one item.

    `event_time_ms` (Unix milliseconds) is when it happened, not when it arrived. `EventType` says what `value` means.
    `context` holds short strings: device, page, and the item's categories and creator at that time, so stream and batch
    see the same ones without a join.
    """

    event_id: str
    type: EventType
    user_id: str
    item_id: str
    event_time_ms: int
    request_id: str | None = None
    position: int | None = None
    value: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> tuple[str, str]:
        """See `EVENT_KEY`."""
        return self.user_id, self.event_id

    @property
    def categories(self) -> tuple[str, ...]:
        joined = self.context.get(CATEGORIES)
        return tuple(joined.split(CATEGORY_SEPARATOR)) if joined else ()

    @property
    def creator(self) -> str:
        return self.context.get(CREATOR, "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, fields in declaration order."""
        values = {name: getattr(self, name) for name in EVENT_FIELDS}
        return values | {"type": str(self.type), "context": dict(self.context)}


EVENT_FIELDS = tuple(f.name for f in fields(Event))
_FIELD_SET = frozenset(EVENT_FIELDS)
_TYPES = {str(t): t for t in EventType}


def parse_event(raw: Any) -> Event:
    """An `Event` from decoded JSON. Raises `InvalidEvent`: with the field and the reason."""
    if not isinstance(raw, dict):
        raise InvalidEvent(f"an event is a JSON object, got {type(raw).__name__}")
    if not raw.keys() <= _FIELD_SET:
        raise InvalidEvent(f"unknown fields: {', '.join(sorted(map(str, raw.keys() - _FIELD_SET)))}")
    event_type = raw.get("type")
    if not isinstance(event_type, str) or event_type not in _TYPES:
        raise InvalidEvent(f"type: {event_type!r} is not one of {', '.join(_TYPES)}")
    version = raw.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise InvalidEvent(f"schema_version: {version!r} is not supported, expected {SCHEMA_VERSION}")
    value = _value(raw, _TYPES[event_type])
    return Event(
        event_id=parse_id(raw.get("event_id"), "event_id"),
        type=told_apart(_TYPES[event_type], value),
        user_id=parse_id(raw.get("user_id"), "user_id"),
        item_id=parse_id(raw.get("item_id"), "item_id"),
        event_time_ms=parse_time(raw.get("event_time_ms"), "event_time_ms"),
        request_id=None if raw.get("request_id") is None else parse_id(raw["request_id"], "request_id"),
        position=None if raw.get("position") is None else parse_position(raw["position"]),
        value=value,
        context=parse_context(raw.get("context")),
        schema_version=SCHEMA_VERSION,
    )


def told_apart(kind: EventType, value: float | None) -> EventType:
    """A rating is engagement only from `MIN_STARS` on; a lower one says the opposite.

    >>> [str(told_apart(EventType.RATING, stars)) for stars in (1.0, 3.0, None)]
    ['dislike', 'rating', 'rating']
    """
    low = kind is EventType.RATING and value is not None and value < MIN_STARS
    return EventType.DISLIKE if low else kind


def parse_id(value: Any, name: str) -> str:
    """An id in its one form. Raises `InvalidEvent`: as `parse_text`."""
    return parse_text(value, name, id_text)


def parse_text(value: Any, name: str, rule: Callable[[str], str]) -> str:
    """A text in the form of a rule of `recsys.contracts.text`. Raises `InvalidEvent`: it does not keep it."""
    if type(value) is not str:
        raise InvalidEvent(f"{name}: a string is required, got {value!r:.80}")
    try:
        return rule(value)
    except ValueError as error:
        raise InvalidEvent(f"{name}: {error}") from None


def parse_time(value: Any, name: str) -> int:
    """Raises `InvalidEvent`: not Unix milliseconds."""
    if type(value) is not int or not 0 < value < MAX_TIME_MS:
        raise InvalidEvent(f"{name}: Unix milliseconds as an integer are required, got {value!r:.80}")
    return value


def parse_position(value: Any) -> int:
    """Raises `InvalidEvent`: not a position in a list, from 0."""
    if type(value) is not int or not 0 <= value <= MAX_POSITION:
        raise InvalidEvent(f"position: an integer from 0 is required, got {value!r:.80}")
    return value


def _value(raw: Mapping[str, Any], kind: EventType) -> float | None:
    value = raw.get("value")
    if value is None:
        return None
    most = MOST_VALUES.get(kind, MOST_VALUE)
    if type(value) not in (int, float) or not 0 <= value <= most:  # also True for NaN
        raise InvalidEvent(
            f"value: of a {kind}, a number from 0 to {most:,.0f} is required, got {value!r:.80}"
        )
    return float(value)


def parse_reported(raw: Any) -> Event:
    """As `parse_event`, for events that clients and other producers report: impressions come from the impression log
    (`recsys.contracts.impressions`), where each belongs to a list that was shown."""
    event = parse_event(raw)
    if event.type is EventType.IMPRESSION:
        raise InvalidEvent(
            "type: impressions come from the topic impressions, where the API logs each list it serves"
        )
    return event


def parse_context(value: Any) -> Mapping[str, str]:
    """The context of a decoded record; empty when there is none. Raises `InvalidEvent`: not an object of a few short
    strings."""
    if not value:
        if value is None or value == {}:
            return {}
        raise InvalidEvent("context: an object of strings is required")
    if not isinstance(value, dict) or len(value) > MAX_CONTEXT_ENTRIES:
        raise InvalidEvent(f"context: an object of at most {MAX_CONTEXT_ENTRIES} strings is required")
    for key, text in value.items():
        if type(key) is not str or type(text) is not str or len(key) + len(text) > MAX_CONTEXT_LENGTH:
            raise InvalidEvent(f"context: {str(key)[:40]!r} needs a string of at most {MAX_CONTEXT_LENGTH}")
    read = {key: parse_text(value[key], f"context.{key}", free_text) for key in _READ_KEYS if key in value}
    return value | read if read else value


def item_context(context: Mapping[str, str], categories: Sequence[str], creator: str) -> dict[str, str]:
    """Add the item's categories and creator, as far as there is room: of too many categories, the first ones stay."""
    full = dict(context)
    for key, text in (
        (CATEGORIES, fitting_categories(CATEGORY_SEPARATOR.join(categories))),
        (CREATOR, creator),
    ):
        fits = len(key) + len(text) <= MAX_CONTEXT_LENGTH
        if text and fits and (key in full or len(full) < MAX_CONTEXT_ENTRIES):
            full[key] = text
    return full


def fitting_categories(joined: str) -> str:
    """As many of the joined categories as a context has room for, the first ones."""
    room = MAX_CONTEXT_LENGTH - len(CATEGORIES)
    return joined if len(joined) <= room else joined[: room + 1].rpartition(CATEGORY_SEPARATOR)[0]


def new_id(
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> str:
    """A UUIDv7 (RFC 9562): sorts by time. Clock and randomness can be injected."""
    return _uuid7(now_ms(), random_bytes(10))


def derived_id(time_ms: int, *parts: object) -> str:
    """The UUIDv7 of this time and these parts: always the same, so importing or expanding twice is idempotent.

    >>> derived_id(1_750_000_000_000, "u1", "i1")
    '01977420-dc00-77ee-8927-74b970165161'
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=10).digest()
    return _uuid7(time_ms, digest)


def _uuid7(time_ms: int, entropy: bytes) -> str:
    """`entropy`: 80 bits, six of which version and variant take."""
    time_part, rest = f"{time_ms & (1 << 48) - 1:012x}", entropy.hex()
    variant = "89ab"[int(rest[4], 16) & 3]
    return f"{time_part[:8]}-{time_part[8:]}-7{rest[1:4]}-{variant}{rest[5:8]}-{rest[8:]}"
