"""Events as nearly all of them are, read by one call of a decoder and some comparisons.

`recsys.contracts.events.parse_event` says what an event is. What is unusual here is for it to judge.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from recsys.contracts.events import (
    CATEGORIES,
    CREATOR,
    MAX_CONTEXT_ENTRIES,
    MAX_POSITION,
    MAX_TIME_MS,
    MOST_VALUE,
    MOST_VALUES,
    SCHEMA_VERSION,
    Event,
)
from recsys.contracts.text import is_plain, is_plain_id
from recsys.contracts.types import EventType

# a rating's meaning depends on its stars, and who may report an impression on where it comes from
_JUDGED = (EventType.RATING, EventType.IMPRESSION)
_READ = (CATEGORIES, CREATOR)  # keys whose texts have a form of their own
_MOST_PLAIN = 256  # characters of a text in the context, so that with its key it is within the bounds


class _Plain(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of `Event`."""

    event_id: str
    type: EventType
    user_id: str
    item_id: str
    event_time_ms: Annotated[int, Meta(gt=0, lt=MAX_TIME_MS)]
    request_id: str | None = None
    position: Annotated[int, Meta(ge=0, le=MAX_POSITION)] | None = None
    value: Annotated[float, Meta(ge=0)] | None = None
    context: Annotated[dict[str, str], Meta(max_length=MAX_CONTEXT_ENTRIES)] | None = {}
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION


_decode = msgspec.json.Decoder(_Plain).decode


def plain_event(value: bytes) -> Event | None:
    """What `parse_event` makes of the JSON; None: ask it."""
    try:
        raw = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if raw.type in _JUDGED:
        return None
    if raw.value is not None and not raw.value <= MOST_VALUES.get(raw.type, MOST_VALUE):
        return None
    if not (is_plain_id(raw.event_id) and is_plain_id(raw.user_id) and is_plain_id(raw.item_id)):
        return None
    if raw.request_id is not None and not is_plain_id(raw.request_id):
        return None
    if raw.context is None:
        raw.context = {}
    for key, text in raw.context.items():
        if len(key) > _MOST_PLAIN or len(text) > _MOST_PLAIN:
            return None
        if key in _READ and not is_plain(text):
            return None
    return msgspec.convert(raw, Event, from_attributes=True)
