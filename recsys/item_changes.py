"""Changes of the catalogue on the log: what the API accepts, and any producer may send, to the topic `items`.

    {"item": {"item_id": "42", "title": "…", "categories": ["Drama"], …}, "changed_ms": 1750000000000}
    {"deleted": "42", "changed_ms": 1750000000000}

Records are keyed by item id, so an item's changes are in order and the topic can be compacted. Whoever applies a
change compares `changed_ms`: an older one changes nothing, so applying twice, or late, is harmless.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recsys.errors import InvalidEvent
from recsys.events import (
    CATEGORY_SEPARATOR,
    MAX_CONTEXT_ENTRIES,
    MAX_CONTEXT_LENGTH,
    MAX_ID_LENGTH,
    MAX_TIME_MS,
)
from recsys.types import Item

MAX_CATEGORIES = 32
_ITEM_FIELDS = frozenset(Item.__slots__)


@dataclass(frozen=True, slots=True)
class ItemChange:
    """An item is added or replaced, or deleted (`item` is None), at `changed_ms` (Unix milliseconds)."""

    item_id: str
    item: Item | None
    changed_ms: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        if self.item is None:
            return {"deleted": self.item_id, "changed_ms": self.changed_ms}
        entry = {name: getattr(self.item, name) for name in Item.__slots__}
        entry |= {"categories": list(self.item.categories), "attributes": dict(self.item.attributes)}
        return {"item": entry, "changed_ms": self.changed_ms}


def newest(changes: Iterable[ItemChange]) -> dict[str, ItemChange]:
    """The last change of each item; of equal times the later one."""
    found: dict[str, ItemChange] = {}
    for change in changes:
        known = found.get(change.item_id)
        if known is None or change.changed_ms >= known.changed_ms:
            found[change.item_id] = change
    return found


def parse_item_change(raw: Any) -> ItemChange:
    """Check decoded JSON and make an `ItemChange` of it.

    Raises:
        InvalidEvent: with the field and the reason; the caller sends both to the dead-letter topic.
    """
    if not isinstance(raw, dict) or raw.keys() not in ({"item", "changed_ms"}, {"deleted", "changed_ms"}):
        raise InvalidEvent("item change: an object of item or deleted, and changed_ms, is required")
    changed_ms = _time(raw["changed_ms"], "changed_ms")
    if "deleted" in raw:
        return ItemChange(_text(raw["deleted"], "deleted", MAX_ID_LENGTH, empty=False), None, changed_ms)
    item = _item(raw["item"])
    return ItemChange(item.item_id, item, changed_ms)


def _item(raw: Any) -> Item:
    if not isinstance(raw, dict) or not raw.keys() <= _ITEM_FIELDS:
        raise InvalidEvent(f"item: an object of {', '.join(Item.__slots__)} is required")
    categories, attributes = raw.get("categories", []), raw.get("attributes", {})
    if not isinstance(categories, list) or len(categories) > MAX_CATEGORIES:
        raise InvalidEvent(f"categories: a list of at most {MAX_CATEGORIES} is required")
    if not isinstance(attributes, Mapping) or len(attributes) > MAX_CONTEXT_ENTRIES:
        raise InvalidEvent(f"attributes: an object of at most {MAX_CONTEXT_ENTRIES} strings is required")
    names = tuple(_text(name, "categories", MAX_ID_LENGTH, empty=False) for name in categories)
    if any(CATEGORY_SEPARATOR in name for name in names):
        raise InvalidEvent(f"categories: {CATEGORY_SEPARATOR!r} is not allowed in a name")
    created_ms = raw.get("created_ms", 0)
    return Item(
        item_id=_text(raw.get("item_id"), "item_id", MAX_ID_LENGTH, empty=False),
        title=_text(raw.get("title", ""), "title", MAX_CONTEXT_LENGTH, printable=False),
        categories=names,
        creator=_text(raw.get("creator", ""), "creator", MAX_ID_LENGTH),
        created_ms=_time(created_ms, "created_ms") if created_ms else 0,
        attributes={
            _text(name, "attributes", MAX_CONTEXT_LENGTH, printable=False): _text(
                value, "attributes", MAX_CONTEXT_LENGTH, printable=False
            )
            for name, value in attributes.items()
        },
    )


def _text(value: Any, name: str, most: int, empty: bool = True, printable: bool = True) -> str:
    if type(value) is not str or not (value or empty) or len(value) > most:
        raise InvalidEvent(f"{name}: a string of at most {most} characters is required, got {value!r:.80}")
    if printable and not value.isprintable():
        raise InvalidEvent(f"{name}: control characters are not allowed")
    return value


def _time(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value < MAX_TIME_MS:
        raise InvalidEvent(f"{name}: Unix milliseconds as an integer are required, got {value!r:.80}")
    return value
