"""Impressions as the topic carries them: a byte of version, then MessagePack with the features as they are.

The version of a narrowed list is 2, of any other 1; their values are the same.

JSON (`Impression.to_dict`) is read, too: older versions wrote it, and other producers may. It never begins with the
byte of a version.
"""

from typing import Any

import msgspec
import numpy as np

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.impressions import Impression, ShownItem, parse_impression

VERSION, NARROWED_VERSION = 1, 2  # of the values' meaning and order; below all that JSON may begin with
_MOST = 8  # versions; JSON may begin with a tab, which is 9

_ITEM = ShownItem.__slots__
_FIELDS = tuple(name for name in Impression.__slots__ if name != "narrowed")
_Item = tuple[str, int, float, float, list[str], list[str], str]
_Values = tuple[str, str, int, str, str, list[_Item], bytes, str, dict[str, str]]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Values).decode
_json = msgspec.json.Decoder().decode


def impression_record(impression: Impression) -> bytes:
    """The value of the topic's record; `read_impression` is its inverse."""
    values = {name: getattr(impression, name) for name in _FIELDS}
    values["items"] = [[getattr(item, name) for name in _ITEM] for item in impression.items]
    values["features"] = np.ascontiguousarray(impression.features, dtype="<f4").tobytes()
    version = NARROWED_VERSION if impression.narrowed else VERSION
    return bytes([version]) + _pack([*values.values()])


def read_impression(value: bytes) -> Impression:
    """Raises `InvalidEvent`: no impression, or of a version that this program does not know."""
    return parse_impression(_raw(value))


def impression_text(value: bytes) -> str:
    """A record for people: as JSON, whichever way it was written; what cannot be read stays as it is."""
    try:
        return msgspec.json.encode(_raw(value)).decode()
    except InvalidEvent:
        return value.decode(errors="replace")


def _raw(value: bytes) -> Any:
    try:
        if not value or value[0] > _MOST:
            return _json(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deep
        raise InvalidEvent(f"json: {error}") from error
    if value[0] not in (VERSION, NARROWED_VERSION):
        raise InvalidEvent(
            f"impression: version {value[0]} is not known, only {VERSION} and {NARROWED_VERSION}; update this reader"
        )
    try:
        values = _unpack(memoryview(value)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"impression: {error}") from error
    raw = dict(zip(_FIELDS, values, strict=True))
    items = [dict(zip(_ITEM, item, strict=True)) for item in raw["items"]]
    return raw | {"items": items, "narrowed": value[0] == NARROWED_VERSION}
