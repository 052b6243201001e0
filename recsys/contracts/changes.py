"""Changes of items and users: what the API accepts, and any producer may send, to the topics `items` and `users`.

{"item": {"item_id": "42", "title": "…", "categories": ["Drama"], …}, "changed_ms": 1750000000000}
{"user": {"user_id": "196", "attributes": {"age": "31"}}, "changed_ms": 1750000000000}
{"deleted": "42", "changed_ms": 1750000000000}

On the log, in the store and in the lake the newest change counts: an older `changed_ms` has no effect, so applying a
change twice, or late, is harmless. Records are keyed by the id, so changes of one id keep their order and the topics
can be compacted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import MAX_CONTEXT_ENTRIES, parse_id, parse_text, parse_time
from recsys.contracts.languages import MAX_TITLES, default_title, language_tag, titles_of
from recsys.contracts.text import category_text, free_text, name_text
from recsys.contracts.types import Item, User

MAX_CATEGORIES = 32
MAX_REGIONS = 300  # there are 250 countries
_ITEM_FIELDS = frozenset(Item.__slots__)
_LATER_FIELDS = ("available_from_ms", "available_until_ms", "regions", "titles")


@dataclass(frozen=True, slots=True)
class ItemChange:
    """An item is added or replaced, or deleted (`item` is None)."""

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
        return {"item": item_entry(self.item), "changed_ms": self.changed_ms}


@dataclass(frozen=True, slots=True)
class UserChange:
    """A user's attributes are replaced as a whole, or deleted (`user` is None)."""

    user_id: str
    user: User | None
    changed_ms: int

    @property
    def key(self) -> str:
        return self.user_id

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        if self.user is None:
            return {"deleted": self.user_id, "changed_ms": self.changed_ms}
        entry = {"user_id": self.user_id, "attributes": dict(self.user.attributes)}
        return {"user": entry, "changed_ms": self.changed_ms}


Change = ItemChange | UserChange
C = TypeVar("C", ItemChange, UserChange)


def item_entry(item: Item) -> dict[str, Any]:
    """Plain JSON-ready values. A window, regions and titles only where they are set: readers of before these fields
    refuse them."""
    entry = {name: getattr(item, name) for name in Item.__slots__}
    entry |= {
        "categories": list(item.categories),
        "attributes": dict(item.attributes),
        "regions": list(item.regions),
    }
    return {name: value for name, value in entry.items() if value or name not in _LATER_FIELDS}


def newest(changes: Iterable[C]) -> dict[str, C]:
    """The newest change of each key; of equal times the later one.

    >>> list(newest([ItemChange("a", None, 2), ItemChange("a", None, 1)]).values())
    [ItemChange(item_id='a', item=None, changed_ms=2)]
    """
    found: dict[str, C] = {}
    for change in changes:
        known = found.get(change.key)
        if known is None or change.changed_ms >= known.changed_ms:
            found[change.key] = change
    return found


def parse_item_change(raw: Any) -> ItemChange:
    """An `ItemChange` from decoded JSON. Raises `InvalidEvent`: with the field and the reason."""
    put, deleted, changed_ms = _parse(raw, "item")
    if deleted:
        return ItemChange(deleted, None, changed_ms)
    item = _item(put)
    return ItemChange(item.item_id, item, changed_ms)


def parse_user_change(raw: Any) -> UserChange:
    """A `UserChange` from decoded JSON. Raises `InvalidEvent`: with the field and the reason."""
    put, deleted, changed_ms = _parse(raw, "user")
    if deleted:
        return UserChange(deleted, None, changed_ms)
    if not isinstance(put, dict) or not put.keys() <= {"user_id", "attributes"}:
        raise InvalidEvent("user: an object of user_id and attributes is required")
    user = User(parse_id(put.get("user_id"), "user_id"), parse_attributes(put.get("attributes", {})))
    return UserChange(user.user_id, user, changed_ms)


def parse_attributes(raw: Any) -> dict[str, str]:
    """Free text by name. Raises `InvalidEvent`: not an object of a few short strings."""
    if not isinstance(raw, Mapping) or len(raw) > MAX_CONTEXT_ENTRIES:
        raise InvalidEvent(f"attributes: an object of at most {MAX_CONTEXT_ENTRIES} strings is required")
    return {
        parse_text(name, "attributes", free_text): parse_text(text, "attributes", free_text)
        for name, text in raw.items()
    }


def _parse(raw: Any, kind: str) -> tuple[Any, str, int]:
    """What is put (None: nothing), the id that is deleted ("": none), and when."""
    if not isinstance(raw, dict) or raw.keys() not in ({kind, "changed_ms"}, {"deleted", "changed_ms"}):
        raise InvalidEvent(f"{kind} change: an object of {kind} or deleted, and changed_ms, is required")
    changed_ms = parse_time(raw["changed_ms"], "changed_ms")
    if "deleted" in raw:
        return None, parse_id(raw["deleted"], "deleted"), changed_ms
    return raw[kind], "", changed_ms


def _item(raw: Any) -> Item:
    if not isinstance(raw, dict) or not raw.keys() <= _ITEM_FIELDS:
        raise InvalidEvent(f"item: an object of {', '.join(Item.__slots__)} is required")
    start_ms, end_ms = _time(raw, "available_from_ms"), _time(raw, "available_until_ms")
    if end_ms and end_ms <= start_ms:
        raise InvalidEvent("available_until_ms: must be after available_from_ms")
    titles = _titles(raw.get("titles", {}))
    return Item(
        item_id=parse_id(raw.get("item_id"), "item_id"),
        title=default_title(parse_text(raw.get("title", ""), "title", free_text), titles),
        categories=_names(raw, "categories", MAX_CATEGORIES),
        creator=parse_text(raw.get("creator", ""), "creator", name_text),
        created_ms=_time(raw, "created_ms"),
        attributes=parse_attributes(raw.get("attributes", {})),
        available_from_ms=start_ms,
        available_until_ms=end_ms,
        regions=_names(raw, "regions", MAX_REGIONS),
        titles=titles,
    )


def _titles(raw: Any) -> Mapping[str, str] | None:
    """By language; None: there is none."""
    if not isinstance(raw, Mapping) or len(raw) > MAX_TITLES:
        raise InvalidEvent(f"titles: an object of at most {MAX_TITLES} titles by language is required")
    return titles_of(
        (parse_text(tag, "titles", language_tag), parse_text(title, "titles", free_text))
        for tag, title in raw.items()
    )


def _time(raw: Mapping[str, Any], name: str) -> int:
    """0: not known."""
    value = raw.get(name, 0)
    return parse_time(value, name) if value else 0


def _names(raw: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    names = raw.get(name, [])
    if not isinstance(names, list) or len(names) > most:
        raise InvalidEvent(f"{name}: a list of at most {most} is required")
    return tuple(parse_text(each, name, category_text) for each in names)
