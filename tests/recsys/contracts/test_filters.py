"""The language of filters: what it means, what it refuses, and that no text makes it do anything else."""

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidFilter
from recsys.contracts.filters import (
    MAX_CONDITIONS,
    MAX_LENGTH,
    Among,
    Every,
    Field,
    Kind,
    Missing,
    Not,
    Order,
    Some,
    parse_filter,
)

PRICE, BRAND = Field("price", Kind.ATTRIBUTE), Field("brand", Kind.ATTRIBUTE)
CATEGORIES, CREATED = Field("categories", Kind.TEXT), Field("created", Kind.TIME)


def texts(field: Field, *values: str) -> Among:
    return Among(field, texts=frozenset(values))


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("price <= 20", Order(PRICE, "<=", 20.0)),
        ("20 >= price", Order(PRICE, "<=", 20.0)),
        ("-1.5 < price", Order(PRICE, ">", -1.5)),
        ("5 <= price < 20", Every((Order(PRICE, ">=", 5.0), Order(PRICE, "<", 20.0)))),
        ("price == 20", Among(PRICE, numbers=frozenset({20.0}))),
        ("price != 20", Not(Among(PRICE, numbers=frozenset({20.0})))),
        ("price in [1, 'x', true]", Among(PRICE, frozenset({"x"}), frozenset({1.0}), frozenset({True}))),
        ("brand == 'a' or brand not in ('b', 'c')", Some((texts(BRAND, "a"), Not(texts(BRAND, "b", "c"))))),
        ('"Comedy" in categories', texts(CATEGORIES, "Comedy")),
        ('categories == "Comedy"', texts(CATEGORIES, "Comedy")),
        ('"Comedy" not in categories', Not(texts(CATEGORIES, "Comedy"))),
        ("brand is null", Missing(BRAND)),
        ("brand == None", Missing(BRAND)),
        ("brand is not null", Not(Missing(BRAND))),
        ("created >= '1970-01-02'", Order(CREATED, ">=", 86_400_000.0)),
        ("created < '1970-01-01T01:00:00+01:00'", Order(CREATED, "<", 0.0)),
        ("created < 7", Order(CREATED, "<", 7.0)),
        ('attributes["release year"] is null', Missing(Field("release year", Kind.ATTRIBUTE))),
        ('attributes["title"] is null', Missing(Field("title", Kind.ATTRIBUTE))),
        (" not (\n brand is null )", Not(Missing(BRAND))),
        ("brand == ' cafe\u0301'", texts(BRAND, "café")),
    ],
)  # fmt: skip
def test_what_an_expression_means(text: str, condition: Any) -> None:
    assert parse_filter(text).condition == condition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("price", "compare price with something"),
        ("price = 20", "at character 7"),
        ("price < '20'", "price: only numbers have an order"),
        ("categories > 3", "categories holds texts"),
        ("categories > 'a'", "categories holds texts"),
        ("title == 3", "title holds texts"),
        ("created == 'soon'", "created is a time"),
        ("created == true", "created is a time"),
        ("brand == color", "two fields cannot be compared"),
        ("brand == acme", 'if acme is a text, write "acme"'),
        ("1 < 2", "one side of a comparison must be a field"),
        ("brand in ['a', null]", "null is in no list"),
        ("brand is 'a'", "`is` asks for null alone"),
        ("price == 1e999", "too large"),
        ("brand == 'a\\n'", "backslash"),
        ("", "invalid syntax"),
        ("brand.upper() == 'A'", "one side"),
        ("__import__('os').system('x') == 1", "one side"),
        ("price + 1 < 3", "one side"),
        ("price == 1 if brand == 2 else 3", "a comparison is needed"),
        ("[x for x in price] == 1", "one side"),
        ("(price := 1) == 1", "one side"),
        ("brand == f'{price}'", "a text, a number"),
        ("brand == b'a'", "a text, a number"),
        ("price < 5 # cheap\n and brand == 'acme'", "a comment is not allowed, at character 11"),
        ("brand in ['acme' 'other']", "a comma is missing before this text, at character 18"),
        (
            "title == 'äöü' and price",
            "compare price with something, such as `price == true`, at character 20",
        ),
        ("(" * 300, "filter: "),
        ("not " * 400 + "price == 1", "inside each other"),
        ("-" * 1_900 + "1 < price", "filter: "),
        ("price" + ".a" * 900 + " == 1", "one side"),
        (" and ".join(["price == 1"] * (MAX_CONDITIONS + 1)), f"at most {MAX_CONDITIONS}"),
        ("x" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH}"),
        ("brand == 'a\u202eb'", "RIGHT-TO-LEFT OVERRIDE".lower()),
    ],
)
def test_what_is_refused_and_how(text: str, says: str) -> None:
    with pytest.raises(InvalidFilter, match="filter: ") as error:
        parse_filter(text)
    assert says in str(error.value)


_TEXT = "price brand and or not in is null ( ) [ ] , 'a' 1 < == - # lambda : . * \n \0"


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from(_TEXT.split(" ")), max_size=60).map(" ".join))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_filter(text)
    except InvalidFilter as error:
        assert str(error).startswith("filter: ")


@pytest.mark.parametrize(
    "text", ["(" * 2_000, "-" * 2_000, "not " * 500, "[" * 2_000, "x." * 1_000, "1<" * 1_000]
)
def test_what_nests_deeply_does_not_overflow_the_stack_of_a_thread(text: str) -> None:
    refused: list[InvalidFilter] = []

    def read() -> None:
        try:
            parse_filter(text)
        except InvalidFilter as error:
            refused.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert refused
