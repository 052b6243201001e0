"""Changes of items on the log: what is written is read again, what breaks the contract is refused with the reason."""

import json
from typing import Any

import pytest

from recsys.contracts.changes import ItemChange, newest, parse_item_change
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.types import Item

FULL = Item("42", "Ä film", ("Drama", "War"), "maker", 5, {"year": "1999"})
WINDOW = Item("42", available_from_ms=5, available_until_ms=9, regions=("de", "at"))
TITLES = Item("42", "Ä film", titles={"de": "Ä film", "pt-BR": "Um filme"})


@pytest.mark.parametrize("item", [FULL, Item("42"), WINDOW, TITLES, None])
def test_what_is_written_is_read_again(item: Item | None) -> None:
    change = ItemChange("42", item, 1_750_000_000_000)
    assert parse_item_change(json.loads(json.dumps(change.to_dict()))) == change


def test_readers_of_before_windows_and_titles_take_an_item_without_them() -> None:
    entry = ItemChange("42", FULL, 5).to_dict()["item"]
    assert set(entry) == {"item_id", "title", "categories", "creator", "created_ms", "attributes"}


def test_titles_have_their_form_and_the_first_is_the_default_where_there_is_none() -> None:
    entry = {"item_id": "42", "titles": {"en": "", "pt_br": " Um\nfilme ", "DE": "A\u0308 film"}}
    item = parse_item_change({"item": entry, "changed_ms": 5}).item
    assert item == Item("42", "Um filme", titles={"pt-BR": "Um filme", "de": "Ä film"})
    for titles in ({}, {"de": ""}):
        item = parse_item_change({"item": {"item_id": "42", "titles": titles}, "changed_ms": 5}).item
        assert item is not None and item.titles is None


def test_the_newest_change_counts_and_of_equal_times_the_later_one() -> None:
    changes = [ItemChange("a", FULL, 5), ItemChange("a", None, 9), ItemChange("a", FULL, 7)]
    assert newest(changes)["a"].item is None
    assert newest([*changes, ItemChange("a", FULL, 9)])["a"].item == FULL


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "item change"),
        ({"changed_ms": 5}, "item change"),
        ({"item": {"item_id": "a"}, "deleted": "a", "changed_ms": 5}, "item change"),
        ({"deleted": "", "changed_ms": 5}, "deleted"),
        ({"deleted": "a", "changed_ms": 0}, "changed_ms"),
        ({"deleted": "a", "changed_ms": "5"}, "changed_ms"),
        ({"item": "a", "changed_ms": 5}, "item"),
        ({"item": {"title": "no id"}, "changed_ms": 5}, "item_id"),
        ({"item": {"item_id": "a\x00"}, "changed_ms": 5}, "item_id"),
        ({"item": {"item_id": "a", "colour": "red"}, "changed_ms": 5}, "item"),
        ({"item": {"item_id": "a", "categories": "Drama"}, "changed_ms": 5}, "categories"),
        ({"item": {"item_id": "a", "categories": ["x|y"]}, "changed_ms": 5}, "categories"),
        ({"item": {"item_id": "a", "categories": ["x"] * 33}, "changed_ms": 5}, "categories"),
        ({"item": {"item_id": "a", "attributes": {"year": 1999}}, "changed_ms": 5}, "attributes"),
        ({"item": {"item_id": "a", "created_ms": -1}, "changed_ms": 5}, "created_ms"),
        (
            {"item": {"item_id": "a", "available_from_ms": 9, "available_until_ms": 9}, "changed_ms": 5},
            "available_until",
        ),
        ({"item": {"item_id": "a", "available_until_ms": "9"}, "changed_ms": 5}, "available_until_ms"),
        ({"item": {"item_id": "a", "regions": "de"}, "changed_ms": 5}, "regions"),
        ({"item": {"item_id": "a", "regions": ["de|at"]}, "changed_ms": 5}, "regions"),
        ({"item": {"item_id": "a", "title": "x" * 513}, "changed_ms": 5}, "title"),
        ({"item": {"item_id": "a", "titles": {"de": "x" * 513}}, "changed_ms": 5}, "titles"),
        ({"item": {"item_id": "a", "titles": {"german": "x"}}, "changed_ms": 5}, "titles: 'german' is not a"),
        ({"item": {"item_id": "a", "titles": {"de": None}}, "changed_ms": 5}, "titles"),
        ({"item": {"item_id": "a", "titles": ["x"]}, "changed_ms": 5}, "titles"),
        (
            {"item": {"item_id": "a", "titles": {f"a{c}{d}": "x" for c in "abcdefghi" for d in "abcdefgh"}}}
            | {"changed_ms": 5},
            "titles: an object of at most 64",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(raw: Any, says: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^{says}"):
        parse_item_change(raw)
