"""Changes of the catalogue on the log: what the API accepts, and any producer may send, to the topic `items`.

{"item": {"item_id": "42", "title": "…", "categories": ["Drama"], …}, "changed_ms": 1750000000000}
{"deleted": "42", "changed_ms": 1750000000000}
"""

from dataclasses import dataclass
from typing import Any

from recsys.contracts.changes import parse_attributes, parse_id, parse_parts, parse_text
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import CATEGORY_SEPARATOR, MAX_CONTEXT_LENGTH, MAX_ID_LENGTH, parse_time
from recsys.contracts.types import Item

MAX_CATEGORIES = 32
_ITEM_FIELDS = frozenset(Item.__slots__)


@dataclass(frozen=True, slots=True)
class ItemChange:
    """`recsys.contracts.changes.Change`: an item is added or replaced, or deleted (`item` is None)."""

    item_id: str
    item: Item | None
    changed_ms: int

    @property
    def key(self) -> str:
        return self.item_id

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        if self.item is None:
            return {"deleted": self.item_id, "changed_ms": self.changed_ms}
        entry = {name: getattr(self.item, name) for name in Item.__slots__}
        entry |= {"categories": list(self.item.categories), "attributes": dict(self.item.attributes)}
        return {"item": entry, "changed_ms": self.changed_ms}


def parse_item_change(raw: Any) -> ItemChange:
    """Check decoded JSON and make an `ItemChange` of it.

    Raises:
        InvalidEvent: with the field and the reason; the caller sends both to the dead-letter topic.
    """
    put, deleted, changed_ms = parse_parts(raw, "item")
    if deleted:
        return ItemChange(deleted, None, changed_ms)
    item = _item(put)
    return ItemChange(item.item_id, item, changed_ms)


def _item(raw: Any) -> Item:
    if not isinstance(raw, dict) or not raw.keys() <= _ITEM_FIELDS:
        raise InvalidEvent(f"item: an object of {', '.join(Item.__slots__)} is required")
    categories = raw.get("categories", [])
    if not isinstance(categories, list) or len(categories) > MAX_CATEGORIES:
        raise InvalidEvent(f"categories: a list of at most {MAX_CATEGORIES} is required")
    names = tuple(parse_id(name, "categories") for name in categories)
    if any(CATEGORY_SEPARATOR in name for name in names):
        raise InvalidEvent(f"categories: {CATEGORY_SEPARATOR!r} is not allowed in a name")
    created_ms = raw.get("created_ms", 0)
    return Item(
        item_id=parse_id(raw.get("item_id"), "item_id"),
        title=parse_text(raw.get("title", ""), "title", MAX_CONTEXT_LENGTH, printable=False),
        categories=names,
        creator=parse_text(raw.get("creator", ""), "creator", MAX_ID_LENGTH),
        created_ms=parse_time(created_ms, "created_ms") if created_ms else 0,
        attributes=parse_attributes(raw.get("attributes", {})),
    )
