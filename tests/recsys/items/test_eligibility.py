"""Masks of filters, windows and regions agree with a look at each item, while the catalogue changes."""

import operator
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidFilter
from recsys.contracts.filters import (
    Among,
    Condition,
    Every,
    Field,
    Filter,
    Kind,
    Missing,
    Not,
    Order,
    Some,
    parse_filter,
)
from recsys.contracts.truth import truth
from recsys.contracts.types import Item
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility

NOW_MS = 1_000
_LESS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def values(item: Item, field: Field) -> list[str] | list[int]:
    """As docs/serving.md says it."""
    if field.kind is Kind.TIME:
        at = getattr(item, f"{field.name}_ms")
        return [at] if at else []
    if field.kind is Kind.ATTRIBUTE:
        return [part.strip() for part in item.attributes.get(field.name, "").split("|") if part.strip()]
    own = getattr(item, field.name)
    return list(own) if isinstance(own, tuple) else [own] if own else []


def number(value: str | int) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def is_truth(value: str | int, wanted: bool) -> bool:
    try:
        return truth(str(value)) is wanted
    except ValueError:
        return False


def holds(condition: Condition, item: Item) -> bool:
    match condition:
        case Not(part):
            return not holds(part, item)
        case Every(parts):
            return all(holds(part, item) for part in parts)
        case Some(parts):
            return any(holds(part, item) for part in parts)
        case Missing(field):
            return not values(item, field)
        case Order(field, name, bound):
            return any(_LESS[name](number(value), bound) for value in values(item, field))
        case Among(field, texts, numbers, truths):
            return any(
                value in texts or number(value) in numbers or any(is_truth(value, each) for each in truths)
                for value in values(item, field)
            )


_ANY = ["a", "b", "a|b", "1", "2.5", "1|b", "yes", "false", "nan", "", "-3"]
_FIELDS = ["x", "y", "categories", "creator", "created", "regions", "title", "item_id", "available_until"]


def item(rng: random.Random, item_id: str) -> Item:
    return Item(
        item_id,
        title=rng.choice(["", "a", "a|b"]),
        categories=tuple(rng.sample(["a", "b", "c"], rng.randint(0, 2))),
        creator=rng.choice(["", "a"]),
        created_ms=rng.choice([0, 1, NOW_MS, NOW_MS + 1]),
        attributes={name: rng.choice(_ANY) for name in rng.sample(["x", "y"], rng.randint(0, 2))},
        available_from_ms=rng.choice([0, 0, 1, NOW_MS, NOW_MS + 1]),
        available_until_ms=rng.choice([0, 0, 1, NOW_MS, NOW_MS + 1]),
        regions=tuple(rng.sample(["de", "at"], rng.choice([0, 0, 1, 2]))),
    )


def expression(rng: random.Random, depth: int = 3) -> str:
    """A random text of the language."""
    if depth and rng.random() < 0.6:
        parts = [f"({expression(rng, depth - 1)})" for _ in range(rng.randint(1, 3))]
        joined = rng.choice([" and ", " or "]).join(parts)
        return f"not ({joined})" if rng.random() < 0.3 else joined
    name = rng.choice(_FIELDS)
    if rng.random() < 0.15:
        return f"{name} is {rng.choice(['', 'not '])}null"
    if name in ("created", "available_until"):
        return f"{name} {rng.choice(['<', '>=', '==', '!='])} {rng.choice([0, 1, NOW_MS])}"
    text = rng.choice(["'a'", "'b'", "'1'", "'de'", "'i1'"])
    if name in ("x", "y"):
        return rng.choice(
            [
                f"{name} {rng.choice(list(_LESS))} {rng.choice([1, 2.5, -3])}",
                f"{name} in [{text}, 1, 2.5]",
                f"{name} == {rng.choice(['true', 'false', '1', text])}",
                f"{text} not in {name}",
            ]
        )
    return rng.choice([f"{name} != {text}", f"{text} in {name}", f"{name} in [{text}, 'c']"])


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_masks_are_what_a_look_at_each_item_gives_while_the_catalogue_changes(rng: random.Random) -> None:
    known = [Item("all", attributes={"x": "1|true", "y": "2|no"})]  # so that each type is there
    catalogue = Catalogue([*known, *(item(rng, f"i{i}") for i in range(rng.randint(0, 30)))])
    eligibility = Eligibility(catalogue, max_bytes=60)
    asked = [parse_filter(expression(rng)) for _ in range(3)]
    for _ in range(4):
        for one, now_ms in product(asked, (NOW_MS, NOW_MS + 1)):
            region = rng.choice(["", "de", "ch"])
            eligible = eligibility.of(now_ms, one, region)
            assert eligible is not None
            for row, alive in enumerate(catalogue.alive.tolist()):
                wanted = (
                    alive
                    and out(catalogue.item(row), now_ms, region)
                    and holds(one.condition, catalogue.item(row))
                )
                assert bool(eligible.mask[row]) == wanted, (one.text, catalogue.item(row))
            offered = sum(
                alive and out(catalogue.item(row), now_ms, region)
                for row, alive in enumerate(catalogue.alive.tolist())
            )
            assert eligible.offered == eligibility.offered(now_ms, region) == offered
            of_region = eligibility.of(now_ms, None, region)
            assert of_region is None or of_region.offered == offered
            why = eligibility.ineligible(now_ms, one, region)
            hidden = np.flatnonzero(catalogue.alive & ~eligible.mask)
            assert sorted(set().union(*(rows.tolist() for rows in why.values()))) == hidden.tolist()
            again = eligibility.reasons(hidden.astype(np.int32), now_ms, one, region)
            assert {r: hidden[mask].tolist() for r, mask in again.items()} == {
                r: rows.tolist() for r, rows in why.items()
            }
        catalogue.put([item(rng, f"i{rng.randrange(40)}") for _ in range(rng.randint(0, 3))])
        catalogue.delete([f"i{rng.randrange(40)}"])


def out(item: Item, now_ms: int, region: str) -> bool:
    return (
        item.created_ms <= now_ms
        and item.available_from_ms <= now_ms
        and (not item.available_until_ms or now_ms < item.available_until_ms)
        and (not item.regions or region in item.regions)
    )


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_time_alone_hides_what_is_not_out_or_no_longer_there(rng: random.Random) -> None:
    items = [item(rng, f"i{i}") for i in range(rng.randint(1, 6))]
    catalogue = Catalogue([replace(each, regions=()) for each in items])
    eligibility = Eligibility(catalogue)
    for _ in range(20):
        now_ms = rng.choice([0, 1, 2, NOW_MS - 1, NOW_MS, NOW_MS + 1, NOW_MS + 2])
        eligible = eligibility.of(now_ms)
        mask = np.ones(len(items), bool) if eligible is None else eligible.mask
        assert mask.tolist() == [out(catalogue.item(row), now_ms, "") for row in range(len(items))]


def asked(text: str) -> Filter:
    return parse_filter(text)


def test_a_mask_is_made_once_per_change_of_the_catalogue() -> None:
    catalogue = Catalogue([Item("a", creator="x"), Item("b")])
    eligibility = Eligibility(catalogue)
    first = eligibility.of(NOW_MS, asked("creator == 'x'"))
    assert eligibility.of(NOW_MS + 1, asked("creator  ==  'x'")) is first
    catalogue.put([Item("b", creator="x")])
    second = eligibility.of(NOW_MS, asked("creator == 'x'"))
    assert first is not None and second is not None
    assert (first.count, second.count) == (1, 2)
    catalogue.put([Item("c", creator="x", available_until_ms=NOW_MS + 5)])
    assert [e.count for at in (4, 5, 4) if (e := eligibility.of(NOW_MS + at, asked("creator == 'x'")))] == [
        3,
        2,
        3,
    ]


def test_masks_take_bounded_memory_and_the_latest_stay() -> None:
    eligibility = Eligibility(Catalogue([Item(f"i{i}", attributes={"x": str(i)}) for i in range(100)]), 1_250)
    first = eligibility.of(NOW_MS, asked("x == 1"))
    eligibility.of(NOW_MS, asked("x == 2"))
    assert eligibility.of(NOW_MS, asked("x == 1")) is first
    eligibility.of(NOW_MS, asked("x == 3"))
    assert eligibility.of(NOW_MS, asked("x == 1")) is first
    assert len(eligibility._kept) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour == 'red'", r"no item has 'colour'; known are item_id, title, .*, brand, price"),
        ("not (price < 3 and color is null)", "no item has 'color'"),
        ("brand > 3", "brand: no item's is a number"),
        ("brand in ['acme', 3]", "brand: no item's is a number"),
        ("brand == true", "brand: no item's is true or false"),
    ],
)
def test_errors_name_the_attribute_and_what_there_is(text: str, says: str) -> None:
    catalogue = Catalogue([Item("a", attributes={"price": "3", "brand": "acme"}), Item("b")])
    with pytest.raises(InvalidFilter, match=says):
        Eligibility(catalogue).of(NOW_MS, asked(text))
    Eligibility(catalogue).of(NOW_MS, asked("price < 3 or brand == 'none'"))


def test_an_attribute_counts_from_the_first_item_that_has_it() -> None:
    catalogue = Catalogue([Item("a")])
    eligibility = Eligibility(catalogue)
    with pytest.raises(InvalidFilter):
        eligibility.of(NOW_MS, asked("price < 3"))
    catalogue.put([Item("b", attributes={"price": "2"})])
    eligible = eligibility.of(NOW_MS, asked("price < 3"))
    assert eligible is not None
    assert eligible.rows.tolist() == [1]


def test_an_item_that_comes_while_a_filter_is_evaluated_is_hidden_until_its_window_opens() -> None:
    catalogue = Catalogue([Item("a", attributes={"x": "1"})])
    eligibility = Eligibility(catalogue)
    select = catalogue.select

    def meanwhile(condition: Condition) -> tuple[int, NDArray[np.bool_]]:
        catalogue.put([Item("later", attributes={"x": "1"}, available_from_ms=NOW_MS + 1)])
        return select(condition)

    with patch.object(catalogue, "select", meanwhile):
        eligible = eligibility.of(NOW_MS, asked("x == 1"))
    assert eligible is not None
    assert eligible.rows.tolist() == [0]


def test_a_list_must_end_with_the_first_window_of_its_items() -> None:
    eligibility = Eligibility(
        Catalogue([Item("a", available_until_ms=9), Item("b", available_until_ms=7), Item("c")])
    )
    assert eligibility.closes_ms(np.array([0, 1, 2], np.int32)) == 7
    assert eligibility.closes_ms(np.array([2], np.int32)) is None


def test_threads_see_whole_masks_while_items_change() -> None:
    """Every item has x = 1 or x = 2, whatever the moment: the two filters never leave one out."""
    catalogue = Catalogue([Item(f"i{i}", attributes={"x": "1"}) for i in range(500)])
    eligibility = Eligibility(catalogue)
    either = asked("x == 1 or x == 2")

    def change(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            catalogue.put(
                [Item(f"i{rng.randrange(700)}", attributes={"x": rng.choice("12")}) for _ in range(9)]
            )

    def read(_: int) -> bool:
        found = [eligibility.of(NOW_MS, either) for _ in range(60)]
        return all(one is not None and one.count == len(one.mask) >= 500 for one in found)

    with ThreadPoolExecutor(4) as pool:
        changing = pool.map(change, range(2))
        assert all(pool.map(read, range(4)))
        list(changing)


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 50))
def test_the_latest_eligible_rows_come_first(mask: list[bool], n: int) -> None:
    eligible = Eligible(np.array(mask, bool))
    assert eligible.latest(n).tolist() == eligible.rows[::-1][:n].tolist()
