"""Rows of the tables from changes, and changes from rows."""

from collections.abc import Mapping
from typing import Any

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.languages import titles_of
from recsys.contracts.types import Item, User

_NOTHING = Item("")


def item_row(change: ItemChange) -> dict[str, Any]:
    """Of a deleted item only the id remains."""
    item = change.item or _NOTHING
    return {
        "item_id": change.item_id,
        "title": item.title,
        "categories": list(item.categories),
        "creator": item.creator,
        "created_ms": item.created_ms,
        "attributes": dict(item.attributes),
        "available_from_ms": item.available_from_ms,
        "available_until_ms": item.available_until_ms,
        "regions": list(item.regions),
        "titles": dict(item.titles) if item.titles else None,
        "deleted": change.item is None,
        "changed_ms": change.changed_ms,
    }


def item_change(row: Mapping[str, Any]) -> ItemChange:
    if row["deleted"]:
        return ItemChange(row["item_id"], None, row["changed_ms"])
    item = Item(
        row["item_id"],
        row["title"],
        tuple(row["categories"]),
        row["creator"],
        row["created_ms"],
        dict(row["attributes"]),
        row["available_from_ms"],
        row["available_until_ms"],
        tuple(row["regions"]),
        titles_of((row["titles"] or {}).items()),
    )
    return ItemChange(item.item_id, item, row["changed_ms"])


def user_row(change: UserChange) -> dict[str, Any]:
    return {
        "user_id": change.user_id,
        "attributes": dict(change.user.attributes) if change.user else {},
        "changed_ms": change.changed_ms,
    }


def user_change(row: Mapping[str, Any]) -> UserChange:
    return UserChange(row["user_id"], User(row["user_id"], dict(row["attributes"])), row["changed_ms"])
