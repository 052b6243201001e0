"""Impressions as the topic carries them: a byte of version, then MessagePack with the features as they are.

Version 2 has one value more, the place from which on its request narrowed the list; version 1 is of all other lists.

JSON (`Impression.to_dict`) is read, too: older versions wrote it, and other producers may. It never begins with the
byte of a version.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.impressions import Impression, ShownItem, parse_impression
from recsys.contracts.types import DEEP

_WITHOUT, _WITH = 1, 2  # the last value; below all that JSON may begin with
_MOST = 8  # versions; JSON may begin with a tab, which is 9

_ITEM = ShownItem.__slots__
_FIELDS = Impression.__slots__
_Item = tuple[str, int, float, float, list[str], list[str], str]
_Values1 = tuple[str, str, int, str, str, list[_Item], bytes, str, dict[str, str]]
_Values2 = tuple[str, str, int, str, str, list[_Item], bytes, str, dict[str, str], int]
_pack = msgspec.msgpack.Encoder().encode
_unpack: dict[int, Callable[[memoryview], tuple[Any, ...]]] = {
    _WITHOUT: msgspec.msgpack.Decoder(_Values1).decode,
    _WITH: msgspec.msgpack.Decoder(_Values2).decode,
}
_json = msgspec.json.Decoder().decode


def impression_record(impression: Impression) -> bytes:
    """The value of the topic's record; `read_impression` is its inverse."""
    values = {name: getattr(impression, name) for name in _FIELDS}
    values["items"] = [[getattr(item, name) for name in _ITEM] for item in impression.items]
    values["features"] = np.ascontiguousarray(impression.features, dtype="<f4").tobytes()
    if impression.narrowed_from == DEEP:
        del values["narrowed_from"]
    return bytes([_WITH if "narrowed_from" in values else _WITHOUT]) + _pack([*values.values()])


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
    if (unpack := _unpack.get(value[0])) is None:
        known = " and ".join(map(str, _unpack))
        raise InvalidEvent(f"impression: version {value[0]} is not known, only {known}; update this reader")
    try:
        values = unpack(memoryview(value)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"impression: {error}") from error
    raw = {"narrowed_from": DEEP} | dict(zip(_FIELDS, values, strict=False))
    return raw | {"items": [dict(zip(_ITEM, item, strict=True)) for item in raw["items"]]}
