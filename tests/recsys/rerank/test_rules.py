from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Candidates, Query
from recsys.contracts.types import Item
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.pipeline.stages import Filter, Scorer, Source
from recsys.rerank.rule_stages import PinnedSource, RuleBoost, RuleFilter
from recsys.rerank.rules import RuleBook, read_rules

ITEMS = [
    Item("a", categories=("Action", "Trailer"), creator="x"),
    Item("b", categories=("Drama",), creator="y"),
    Item("c", categories=("Trailer",), creator="x"),
    Item("d"),
]


def query(now_ms: int = 0, **context: str) -> Query:
    return Query("r", "u", k=3, now_ms=now_ms, context=context)


def candidates(*scores: float) -> Candidates:
    n = len(scores)
    return Candidates(
        np.arange(n, dtype=np.int32), (), np.empty((n, 0), np.int16), np.array(scores, np.float32)
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "rules.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_block_names_items_creators_and_any_category(write: Callable[[str], Path]) -> None:
    book = RuleBook(write("rules: [{name: licence, block: {items: [d], categories: [Trailer]}}]"))
    stage: Filter = RuleFilter(book, Eligibility(Catalogue(ITEMS)))
    removed = stage.remove(query(), candidates(1, 1, 1, 1))
    assert {reason: mask.tolist() for reason, mask in removed.items()} == {
        "licence": [True, False, True, True]
    }


def test_a_boost_moves_up_positive_and_negative_scores(write: Callable[[str], Path]) -> None:
    text = (
        "rules: [{name: own, boost: {creators: [x], factor: 2}}, {name: c, boost: {items: [c], factor: 0.5}}]"
    )
    stage: Scorer = RuleBoost(RuleBook(write(text)), Eligibility(Catalogue(ITEMS)))
    assert stage.score(query(), candidates(1, 1, 1, 1)).score.tolist() == [2, 1, 1, 1]
    assert stage.score(query(), candidates(-1, -1, -1, -1)).score.tolist() == [-0.5, -1, -1, -1]


def test_a_rule_says_where_in_the_language_of_filters(write: Callable[[str], Path]) -> None:
    text = """
        rules:
          - {name: cheap, block: {items: [d], where: "price < 10 and not creator == 'y'"}}
          - {name: unknown, block: {where: "colour == 'red'"}}
    """
    items = [
        replace(item, attributes={"price": str(price)})
        for item, price in zip(ITEMS, (5, 5, 50, 50), strict=True)
    ]
    stage = RuleFilter(RuleBook(write(text)), Eligibility(Catalogue(items)))
    removed = stage.remove(query(), candidates(1, 1, 1, 1))
    assert removed["cheap"].tolist() == [True, False, False, True]
    assert not removed["unknown"].any(), "a rule on an attribute that no item has ends no request"
    with pytest.raises(InvalidConfig, match="at character 7"):
        read_rules(write("rules: [{name: a, block: {where: 'price = 3'}}]"))


def test_pinned_items_are_recalled(write: Callable[[str], Path]) -> None:
    text = "rules: [{name: p, pin: {item: c, position: 0}}, {name: gone, pin: {item: zzz, position: 1}}]"
    stage: Source = PinnedSource(RuleBook(write(text)), Catalogue(ITEMS))
    assert stage.recall(query()).tolist() == [2]


def test_rules_hold_in_their_time_and_context(write: Callable[[str], Path]) -> None:
    text = """
    rules:
      - name: launch
        block: {items: [a]}
        when: {from: 2026-06-01T00:00:00Z, until: 2026-06-02T02:00:00+02:00, context: {device: mobile}}
    """
    book = RuleBook(write(text))
    begins, day = 1_780_272_000_000, 86_400_000
    assert not book.holding(query(begins - 1, device="mobile"))
    assert book.holding(query(begins, device="mobile", page="home"))
    assert not book.holding(query(begins, device="tv"))
    assert not book.holding(query(begins + day, device="mobile"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{name: x}]", "exactly one of pin, block and boost"),
        ("rules: [{name: x, block: {}}]", "name items, categories or creators"),
        ("rules: [{name: x, blok: {items: [a]}}]", r"rules\.0\.blok"),
        ("rules: [{name: x, boost: {items: [a], factor: 0}}]", "greater than 0"),
        ("rules: [{name: x, pin: {item: a, position: -1}}]", "greater than or equal to 0"),
        ("rules: [{name: x, block: {items: [a]}, when: {from: 2026-06-01T00:00:00}}]", "timezone"),
        ("rules: [{name: x, block: {items: [a]}}, {name: x, block: {items: [b]}}]", "different names"),
        ("rules: [", "not YAML"),
    ],
)
def test_an_invalid_file_is_refused_with_the_place(
    write: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        read_rules(write(text))


def test_an_empty_file_has_no_rules(write: Callable[[str], Path]) -> None:
    assert read_rules(write("# nothing yet\n")).rules == ()


def test_the_book_reloads_and_survives_a_broken_file(write: Callable[[str], Path]) -> None:
    now = [0.0]
    path = write("rules: [{name: one, block: {items: [a]}}]")
    book = RuleBook(path, check_every_s=1.0, clock=lambda: now[0])

    def names() -> list[str]:
        return [rule.name for rule in book.holding(query())]

    write("rules: [{name: two, block: {items: [a]}}, {name: three, block: {items: [b]}}]")
    assert names() == ["one"]  # not looked at yet
    now[0] = 1.0
    assert names() == ["two", "three"]
    write("rules: [{name: broken}]")
    now[0] = 2.0
    assert names() == ["two", "three"]
    assert "exactly one" in book.error
    path.unlink()
    now[0] = 3.0
    assert names() == ["two", "three"]
    write("rules: []")
    now[0] = 4.0
    assert names() == []
    assert book.error == ""
